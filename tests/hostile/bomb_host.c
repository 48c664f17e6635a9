/* split.tests.Bomb on libsplit-host: counts what reached it. */
#include "bomb.pb-c.h"
#include "examples/options.h"

static uint32_t depth_of(const Split__Tests__Node *node)
{
	uint32_t depth = 0;

	for (; node->child != NULL; node = node->child)
		depth++;
	return depth;
}

static void take(Split__Tests__Bomb_Service *self, const Split__Tests__Node *in,
		 Split__Tests__Node_Closure reply, void *closure_data)
{
	Split__Tests__Node out = SPLIT__TESTS__NODE__INIT;
	uint32_t found[5] = {(uint32_t)in->n_empties, depth_of(in), (uint32_t)in->n_children,
			     (uint32_t)in->n_numbers, (uint32_t)in->n_words};

	(void)self;
	out.n_numbers = sizeof(found) / sizeof(found[0]);
	out.numbers = found;
	reply(&out, closure_data);
}

int main(int argc, char **argv)
{
	Split__Tests__Bomb_Service bomb = SPLIT__TESTS__BOMB__INIT();

	bomb.take = take;
	return example_main(argc, argv, "bomb", &bomb.base);
}
