#include "bench/codec/codec_upb.h"

#include <stdlib.h>

#ifdef SPLIT_HAVE_UPB

/* As gRPC 1.51 has them. */
struct upb_Arena;
struct upb_DefPool;
struct upb_FileDef;
struct upb_MessageDef;
struct upb_MiniTable;
struct upb_Status {
	bool ok;
	char msg[511];
};

extern const struct upb_MiniTable google_protobuf_FileDescriptorProto_msginit;
struct upb_alloc;
extern struct upb_alloc upb_alloc_global;

struct upb_Arena *upb_Arena_Init(void *mem, size_t n, struct upb_alloc *alloc);
void upb_Arena_Free(struct upb_Arena *a);
void *_upb_Message_New(const struct upb_MiniTable *l, struct upb_Arena *a);
int upb_Decode(const char *buf, size_t size, void *msg, const struct upb_MiniTable *l,
	       const void *extreg, int options, struct upb_Arena *arena);
int upb_Encode(const void *msg, const struct upb_MiniTable *l, int options, struct upb_Arena *arena,
	       char **buf, size_t *size);
struct upb_DefPool *upb_DefPool_New(void);
void upb_DefPool_Free(struct upb_DefPool *s);
const struct upb_FileDef *upb_DefPool_AddFile(struct upb_DefPool *s, const void *file_proto,
					      struct upb_Status *status);
const struct upb_MessageDef *upb_DefPool_FindMessageByName(const struct upb_DefPool *s,
							   const char *name);
const struct upb_MiniTable *upb_MessageDef_MiniTable(const struct upb_MessageDef *m);

#define ALIAS_STRINGS 1 /* kUpb_DecodeOption_AliasString */
#define BLOCK_BYTES   ((size_t)4 << 20)

struct codec_upb {
	struct upb_DefPool *pool;
	const struct upb_MiniTable *table;
	struct upb_Arena *kept_in;
	void **kept;
	void *block; /* the first of each arena, so that none asks malloc */
};

static bool file_add(struct upb_DefPool *pool, const uint8_t *file, size_t bytes)
{
	struct upb_Arena *arena = upb_Arena_Init(NULL, 0, &upb_alloc_global);
	void *proto = _upb_Message_New(&google_protobuf_FileDescriptorProto_msginit, arena);
	struct upb_Status status = {.ok = true};
	bool good = upb_Decode((const char *)file, bytes, proto,
			       &google_protobuf_FileDescriptorProto_msginit, NULL, 0, arena) == 0 &&
		    upb_DefPool_AddFile(pool, proto, &status) != NULL;

	upb_Arena_Free(arena);
	return good;
}

struct codec_upb *codec_upb_create(const uint8_t *const *files, const size_t *bytes, size_t n,
				   const char *type)
{
	struct codec_upb *c = calloc(1, sizeof(*c));
	const struct upb_MessageDef *m;
	bool good = c != NULL;

	if (!c)
		return NULL;
	c->pool = upb_DefPool_New();
	c->block = malloc(BLOCK_BYTES);
	c->kept_in = upb_Arena_Init(NULL, 0, &upb_alloc_global);
	for (size_t i = 0; good && i < n; i++)
		good = file_add(c->pool, files[i], bytes[i]);
	m = good ? upb_DefPool_FindMessageByName(c->pool, type) : NULL;
	if (!m || !c->block) {
		codec_upb_destroy(c);
		return NULL;
	}
	c->table = upb_MessageDef_MiniTable(m);
	return c;
}

void codec_upb_destroy(struct codec_upb *c)
{
	if (!c)
		return;
	upb_Arena_Free(c->kept_in);
	upb_DefPool_Free(c->pool);
	free(c->kept);
	free(c->block);
	free(c);
}

int codec_upb_decode(struct codec_upb *c, const uint8_t *wire, size_t bytes, bool alias)
{
	struct upb_Arena *arena = upb_Arena_Init(c->block, BLOCK_BYTES, &upb_alloc_global);
	void *message = _upb_Message_New(c->table, arena);
	int status = upb_Decode((const char *)wire, bytes, message, c->table, NULL,
				alias ? ALIAS_STRINGS : 0, arena);

	upb_Arena_Free(arena);
	return status;
}

int codec_upb_room(struct codec_upb *c, unsigned n)
{
	free(c->kept);
	c->kept = calloc(n + 1, sizeof(*c->kept));
	return c->kept ? 0 : -1;
}

int codec_upb_keep(struct codec_upb *c, unsigned slot, const uint8_t *wire, size_t bytes)
{
	c->kept[slot] = _upb_Message_New(c->table, c->kept_in);
	return upb_Decode((const char *)wire, bytes, c->kept[slot], c->table, NULL, 0, c->kept_in);
}

size_t codec_upb_encode(struct codec_upb *c, unsigned slot)
{
	struct upb_Arena *arena = upb_Arena_Init(c->block, BLOCK_BYTES, &upb_alloc_global);
	size_t bytes = SIZE_MAX;
	char *out;
	int status = upb_Encode(c->kept[slot], c->table, 0, arena, &out, &bytes);

	upb_Arena_Free(arena);
	return status == 0 ? bytes : SIZE_MAX;
}

#else

struct codec_upb *codec_upb_create(const uint8_t *const *files, const size_t *bytes, size_t n,
				   const char *type)
{
	(void)files;
	(void)bytes;
	(void)n;
	(void)type;
	return NULL;
}

void codec_upb_destroy(struct codec_upb *c)
{
	(void)c;
}

int codec_upb_decode(struct codec_upb *c, const uint8_t *wire, size_t bytes, bool alias)
{
	(void)c;
	(void)wire;
	(void)bytes;
	(void)alias;
	return -1;
}

int codec_upb_room(struct codec_upb *c, unsigned n)
{
	(void)c;
	(void)n;
	return -1;
}

int codec_upb_keep(struct codec_upb *c, unsigned slot, const uint8_t *wire, size_t bytes)
{
	(void)c;
	(void)slot;
	(void)wire;
	(void)bytes;
	return -1;
}

size_t codec_upb_encode(struct codec_upb *c, unsigned slot)
{
	(void)c;
	(void)slot;
	return SIZE_MAX;
}

#endif
