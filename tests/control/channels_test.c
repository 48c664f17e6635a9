/* Names of channels: resolved on a thread of their own, told to the workers at control's tick. */
#include <check.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/control/control_internal.h"
#include "tests/control/fake_worker.h"

#define WORKERS 2
#define WAIT_MS 60000 /* that of a busy machine; an idle one needs none */

static const char text[] = "{\"eal\": {\"devices\": [\"net_null9\"]}, \"workers\": [{\"core\": 0}],"
			   " \"ports\": [{\"name\": \"p0\", \"device\": \"net_null9\","
			   "  \"addresses\": [\"198.18.0.2/24\"]}],"
			   " \"listeners\": [{\"name\": \"l\", \"port\": 50051}],"
			   " \"hosts\": [{\"name\": \"h\", \"uids\": [0]}],"
			   " \"services\": [{\"name\": \"t.T\", \"hosts\": [\"h\"]}],"
			   " \"channels\": [{\"name\": \"near\", \"target\": \"local\"},"
			   "  {\"name\": \"listed\", \"target\": \"198.18.0.9:1\"},"
			   "  {\"name\": \"named\", \"target\": \"server.test.example:50051\","
			   "   \"resolve_interval\": \"100ms\"}]}";

/* The same, with the name of another server, asked for rarely, and a list that became local. */
static const char other_text[] =
	"{\"eal\": {\"devices\": [\"net_null9\"]}, \"workers\": [{\"core\": 0}],"
	" \"ports\": [{\"name\": \"p0\", \"device\": \"net_null9\","
	"  \"addresses\": [\"198.18.0.2/24\"]}],"
	" \"listeners\": [{\"name\": \"l\", \"port\": 50051}],"
	" \"hosts\": [{\"name\": \"h\", \"uids\": [0]}],"
	" \"services\": [{\"name\": \"t.T\", \"hosts\": [\"h\"]}],"
	" \"channels\": [{\"name\": \"listed\", \"target\": \"local\"},"
	"  {\"name\": \"named\", \"target\": \"other.test.example:50052\","
	"   \"resolve_interval\": \"24h\"}]}";

/* What the resolver says of it: an address, or NULL, that it does not know. A machine's own names
 * are nothing to build on. */
static const char *_Atomic answer;
static atomic_uint asked;

int __real_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
		       struct addrinfo **out);
int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
		       struct addrinfo **out);

int __wrap_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
		       struct addrinfo **out)
{
	const char *address = atomic_load(&answer);

	atomic_fetch_add(&asked, 1);
	if (strstr(host, ".test.example") == NULL || address == NULL)
		return EAI_NONAME;
	return __real_getaddrinfo(address, service, hints, out);
}

static struct config *config;
static struct control_channels *channels;
static struct control control;
static struct worker fakes[WORKERS];
static struct worker *fake_list[WORKERS];

static void tell(const char *line)
{
	ck_abort_msg("%s", line);
}

static struct config *parse(const char *json)
{
	struct config_report rep;
	struct config *made;

	config_report_init(&rep);
	ck_assert_msg(config_parse(json, strlen(json), "c.json", NULL, &made, &rep) == 0, "%s",
		      rep.count > 0 ? rep.findings[0].text : "");
	config_report_fini(&rep);
	return made;
}

static void setup(void)
{
	config = parse(text);
	memset(&control, 0, sizeof(control));
	for (unsigned i = 0; i < WORKERS; i++) {
		fake_worker_init(&fakes[i], i);
		fake_list[i] = &fakes[i];
	}
	ck_assert_int_eq(control_channels_create(config, "c.json", tell, &channels), 0);
	control.p.channels = channels;
	control.p.workers = fake_list;
	control.p.workers_n = WORKERS;
}

static void teardown(void)
{
	control_channels_destroy(channels);
	for (unsigned i = 0; i < WORKERS; i++)
		fake_worker_fini(&fakes[i]);
	config_free(config);
}

static bool told(void)
{
	for (unsigned i = 0; i < WORKERS; i++)
		if (fakes[i].address_lists == 0)
			return false;
	return true;
}

static void ticks_until_asked(unsigned times)
{
	for (unsigned ms = 0; atomic_load(&asked) < times && ms < WAIT_MS; ms++) {
		channels_tick(&control);
		usleep(1000);
	}
	ck_assert_uint_ge(atomic_load(&asked), times);
}

START_TEST(named)
{
	static const uint8_t first[4] = {198, 18, 0, 7}, second[16] = {0x20, 0x01, 0, 2, [15] = 9};
	const struct worker_address *a;
	unsigned before;

	atomic_store(&answer, "198.18.0.7");
	fakes[1].full = 3; /* its ring has no room at first */
	ck_assert_int_eq(control_channels_start(channels), 0);
	for (unsigned ms = 0; !told() && ms < WAIT_MS; ms++) {
		channels_tick(&control);
		usleep(1000);
	}
	ck_assert(told());
	ck_assert_uint_eq(fakes[0].channel, 2);
	ck_assert_ptr_eq(fakes[0].addresses, fakes[1].addresses);
	ck_assert_uint_eq(atomic_load(&fakes[0].addresses->readers), WORKERS);
	ck_assert_uint_eq(fakes[0].addresses->n, 1);
	a = &fakes[0].addresses->at[0];
	ck_assert_uint_eq(a->port, 50051);
	ck_assert_uint_eq(a->family, 4);
	ck_assert_mem_eq(a->bytes, first, 4);
	/* Asked again it says the same, which is not told, nor that it does not know any more. */
	ticks_until_asked(atomic_load(&asked) + 3);
	ck_assert_uint_eq(fakes[0].address_lists, 1);
	atomic_store(&answer, NULL);
	ticks_until_asked(atomic_load(&asked) + 3);
	ck_assert_uint_eq(fakes[0].address_lists, 1);
	/* Another address is. */
	before = fakes[0].address_lists;
	atomic_store(&answer, "2001:2::9");
	for (unsigned ms = 0; fakes[0].address_lists == before && ms < WAIT_MS; ms++) {
		channels_tick(&control);
		usleep(1000);
	}
	ck_assert_uint_eq(fakes[0].address_lists, before + 1);
	a = &fakes[0].addresses->at[0];
	ck_assert_uint_eq(a->family, 6);
	ck_assert_mem_eq(a->bytes, second, 16);
}
END_TEST

static void refused(void *ctx, const char *path)
{
	(void)ctx;
	ck_abort_msg("%s needs a restart", path);
}

static void ticks_until_told(unsigned before)
{
	for (unsigned ms = 0; fakes[0].address_lists == before && ms < WAIT_MS; ms++) {
		channels_tick(&control);
		usleep(1000);
	}
	ck_assert_uint_eq(fakes[0].address_lists, before + 1);
}

/* A reload: the name is another one, and is asked for at once; then when its server fails. */
START_TEST(reloaded)
{
	struct config *fresh = parse(other_text), *past = config;
	unsigned before;

	atomic_store(&answer, "198.18.0.7");
	ck_assert_int_eq(control_channels_start(channels), 0);
	ticks_until_told(0);
	ck_assert_uint_eq(fakes[0].channel, 2);
	/* Aligned by name: near 0 (gone), listed 1, named 2. */
	ck_assert_int_eq(config_succeed(config, fresh, refused, NULL), 0);
	ck_assert_uint_eq(fresh->channels_n, 3);
	ck_assert(fresh->channels[0].gone);
	control.p.config = config = fresh;
	ck_assert_int_eq(channels_prepare(&control, fresh, tell), 0);
	channels_configure(&control);
	config_free(past);
	/* Not before the workers have the new configuration. */
	control.config_wait = 1;
	before = atomic_load(&asked);
	ticks_until_asked(before + 1);
	ck_assert_uint_eq(fakes[0].address_lists, 1);
	control.config_wait = 0;
	ticks_until_told(1);
	ck_assert_uint_eq(fakes[0].channel, 2);
	ck_assert_uint_eq(fakes[0].addresses->at[0].port, 50052);
	/* The next time would be tomorrow. */
	atomic_store(&answer, "198.18.0.8");
	atomic_store(&fakes[1].channels_failing, 1 << 2);
	ticks_until_told(2);
	ck_assert_uint_eq(fakes[0].addresses->at[0].bytes[3], 8);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("control/channels");
	TCase *t = tcase_create("channels");
	SRunner *r = srunner_create(s);
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 110);
	tcase_add_test(t, named);
	tcase_add_test(t, reloaded);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
