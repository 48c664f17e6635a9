/* The smallest service: split.examples.Greeter. Nothing in the handler knows of splitd; it is
 * written for protobuf-c's own service interface. */
#include <stdio.h>
#include <stdlib.h>

#include "examples/options.h"
#include "greeter.pb-c.h"

static void say_hello(Split__Examples__Greeter_Service *self,
		      const Split__Examples__HelloRequest *request,
		      Split__Examples__HelloReply_Closure reply, void *call)
{
	Split__Examples__HelloReply out = SPLIT__EXAMPLES__HELLO_REPLY__INIT;
	const char *name = *request->name != '\0' ? request->name : "world";
	char *text;

	(void)self;
	if (asprintf(&text, "Hello, %s!", name) < 0) {
		reply(NULL, call);
		return;
	}
	out.message = text;
	reply(&out, call); /* copies what it needs */
	free(text);
}

int main(int argc, char **argv)
{
	Split__Examples__Greeter_Service greeter = SPLIT__EXAMPLES__GREETER__INIT();

	greeter.say_hello = say_hello;
	return example_main(argc, argv, "greeter", &greeter.base);
}
