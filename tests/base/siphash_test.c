#include "base_check.h"

#include "base/siphash.h"

/* The paper's appendix A, and vectors of the reference implementation: key 00..0f, input 00, 01,
 * ... */
START_TEST(reference_vectors)
{
	static const struct {
		size_t len;
		uint64_t want;
	} vectors[] = {
		{0, UINT64_C(0x726fdb47dd0e0e31)},  {1, UINT64_C(0x74f839c593dc67fd)},
		{7, UINT64_C(0xab0200f58b01d137)},  {8, UINT64_C(0x93f5f5799a932462)},
		{15, UINT64_C(0xa129ca6149be45e5)}, {16, UINT64_C(0x3f2acc7f57c29bdb)},
		{63, UINT64_C(0x958a324ceb064572)},
	};
	uint8_t key_bytes[16], data[64];
	struct siphash_key key;

	for (unsigned i = 0; i < 64; i++)
		data[i] = (uint8_t)i;
	for (unsigned i = 0; i < 16; i++)
		key_bytes[i] = (uint8_t)i;
	key = siphash_key_from(key_bytes);
	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++)
		ck_assert_uint_eq(siphash24(&key, data, vectors[i].len), vectors[i].want);
}
END_TEST

BASE_CHECK_MAIN("siphash", reference_vectors)
