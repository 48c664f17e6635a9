/* Ticket keys (RFC 5077 s4, RFC 8446 s4.6.1). A ticket is sealed with the newest key; the ones
 * before it still open tickets, which are then renewed. Handshakes on any thread read the keys
 * while the control thread makes a new one: each slot has a sequence that is odd while it is
 * written, and a reader that finds it odd or changed tries another. */
#include <stdlib.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "daemon/tls/tls_internal.h"

struct ticket_key {
	uint8_t name[16];
	uint8_t aes[32];
	uint8_t hmac[32];
};

#define KEY_WORDS (sizeof(struct ticket_key) / sizeof(uint64_t))
_Static_assert(KEY_WORDS * sizeof(uint64_t) == sizeof(struct ticket_key), "copied by words");

struct ticket_slot {
	_Atomic uint64_t sequence; /* even and not 0: the key is whole */
	_Atomic uint64_t words[KEY_WORDS];
};

struct tls_tickets {
	_Atomic uint32_t newest;
	struct ticket_slot slots[TLS_TICKET_KEYS];
};

int tls_tickets_rotate(struct tls_tickets *t)
{
	uint32_t next =
		(atomic_load_explicit(&t->newest, memory_order_relaxed) + 1) % TLS_TICKET_KEYS;
	struct ticket_slot *slot = &t->slots[next];
	uint64_t sequence = atomic_load_explicit(&slot->sequence, memory_order_relaxed);
	uint64_t words[KEY_WORDS];

	if (RAND_priv_bytes((unsigned char *)words, sizeof(words)) != 1)
		return -SPLIT_E_BASE_SYSTEM;
	atomic_store_explicit(&slot->sequence, sequence + 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	for (size_t i = 0; i < KEY_WORDS; i++)
		atomic_store_explicit(&slot->words[i], words[i], memory_order_relaxed);
	atomic_store_explicit(&slot->sequence, sequence + 2, memory_order_release);
	atomic_store_explicit(&t->newest, next, memory_order_release);
	OPENSSL_cleanse(words, sizeof(words));
	return 0;
}

int tls_tickets_create(struct tls_tickets **out)
{
	struct tls_tickets *t = calloc(1, sizeof(*t));
	int err;

	if (t == NULL)
		return -SPLIT_E_BASE_NOMEM;
	tls_library_init();
	err = tls_tickets_rotate(t);
	if (err != 0) {
		free(t);
		return err;
	}
	*out = t;
	return 0;
}

void tls_tickets_destroy(struct tls_tickets *t)
{
	if (t == NULL)
		return;
	OPENSSL_cleanse(t, sizeof(*t));
	free(t);
}

/* False: it is being written now, or was never. */
static bool slot_read(struct ticket_slot *slot, struct ticket_key *out)
{
	uint64_t before = atomic_load_explicit(&slot->sequence, memory_order_acquire);
	uint64_t words[KEY_WORDS];

	if (before == 0 || before % 2 != 0)
		return false;
	for (size_t i = 0; i < KEY_WORDS; i++)
		words[i] = atomic_load_explicit(&slot->words[i], memory_order_relaxed);
	atomic_thread_fence(memory_order_acquire);
	if (atomic_load_explicit(&slot->sequence, memory_order_relaxed) != before)
		return false;
	memcpy(out, words, sizeof(*out));
	OPENSSL_cleanse(words, sizeof(words));
	return true;
}

static bool key_set(const struct ticket_key *key, const unsigned char *iv, EVP_CIPHER_CTX *cipher,
		    EVP_MAC_CTX *mac, bool seal)
{
	char digest[] = "SHA256";
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, (void *)key->hmac,
						  sizeof(key->hmac)),
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
		OSSL_PARAM_construct_end(),
	};

	return EVP_MAC_CTX_set_params(mac, params) == 1 &&
	       EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, key->aes, iv, seal) == 1;
}

/* 1: sealed or opened; 2: opened, and a new ticket is wanted; 0: not one of ours, or no ticket;
 * negative: an error. */
int tickets_key(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
		EVP_MAC_CTX *mac, int seal)
{
	struct tls_context *ctx = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), context_index);
	struct tls_tickets *t = ctx->tickets;
	uint32_t newest = atomic_load_explicit(&t->newest, memory_order_acquire);
	struct ticket_key key;
	int result = 0;

	for (uint32_t i = 0; i < TLS_TICKET_KEYS && result == 0; i++) {
		uint32_t at = (newest + TLS_TICKET_KEYS - i) % TLS_TICKET_KEYS;

		if (!slot_read(&t->slots[at], &key))
			continue;
		if (seal) {
			if (RAND_bytes(iv, EVP_MAX_IV_LENGTH) != 1)
				return -1;
			memcpy(name, key.name, sizeof(key.name));
		} else if (CRYPTO_memcmp(name, key.name, sizeof(key.name)) != 0) {
			continue;
		}
		result = key_set(&key, iv, cipher, mac, seal != 0) ? (seal || i == 0 ? 1 : 2) : -1;
	}
	OPENSSL_cleanse(&key, sizeof(key));
	return result;
}
