/* split.examples.Echo as a program; what it does is in echo_service.c. */
#include "examples/echo/echo_service.h"
#include "examples/options.h"

int main(int argc, char **argv)
{
	return example_serve(argc, argv, "echo", echo_serve, NULL);
}
