/* shadowllm: language models on the CPU that read only the weights a token needs. The C interface.
 *
 * This header is the manual. A complete program, which asks a model a question and prints the answer as it comes:
 *
 *     #include <shadowllm.h>
 *     #include <stdio.h>
 *
 *     static int32_t print(void *user, const sllm_token *token) {
 *         (void)user;
 *         fwrite(token->text, 1, token->text_length, stdout);
 *         fflush(stdout);
 *         return 0;                                        // anything else stops
 *     }
 *
 *     int main(int argc, char **argv) {
 *         sllm_model *model = NULL;
 *         sllm_tokenizer *tokenizer = NULL;
 *         sllm_session *session = NULL;
 *         sllm_sampler *sampler = NULL;
 *         sllm_chat *chat = NULL;
 *         sllm_generate_options options;
 *         int32_t status = SLLM_STATUS_INVALID_ARGUMENT;
 *
 *         if (argc != 3) { fprintf(stderr, "usage: ask MODEL.sllm QUESTION\n"); return 2; }
 *         if (sllm_version() / 1000 != SLLM_VERSION / 1000) { fprintf(stderr, "library and header differ\n"); return 2; }
 *         sllm_generate_options_defaults(&options, sizeof options);
 *         options.on_token = print;
 *         if ((status = sllm_model_open(argv[1], NULL, &model)) == SLLM_STATUS_OK
 *             && (status = sllm_tokenizer_new(model, &tokenizer)) == SLLM_STATUS_OK
 *             && (status = sllm_session_new(model, NULL, &session)) == SLLM_STATUS_OK
 *             && (status = sllm_sampler_new(NULL, &sampler)) == SLLM_STATUS_OK
 *             && (status = sllm_chat_new(tokenizer, &chat)) == SLLM_STATUS_OK
 *             && (status = sllm_chat_add(chat, "user", argv[2])) == SLLM_STATUS_OK)
 *             status = sllm_chat_generate(chat, session, sampler, &options, NULL);
 *         if (status != SLLM_STATUS_OK) fprintf(stderr, "%s\n", sllm_last_error_message());
 *         sllm_chat_free(&chat);
 *         sllm_sampler_free(&sampler);
 *         sllm_session_free(&session);
 *         sllm_tokenizer_free(&tokenizer);
 *         sllm_model_free(&model);
 *         return status == SLLM_STATUS_OK ? 0 : 1;
 *     }
 *
 * RULES THAT HOLD EVERYWHERE
 *
 * Status. A function that can fail returns an int32_t status: SLLM_STATUS_OK or one of the codes below, whose numbers
 * never change. Outputs come last; they are written on success and left as they were on failure. After a failure
 * sllm_last_error_message() says, on the same thread, what was wrong and what to do about it.
 *
 * NULL is checked for. Where a pointer may be NULL, the function says so; elsewhere NULL gives
 * SLLM_STATUS_INVALID_ARGUMENT.
 *
 * Ownership. An object from a function ending in _new, _open..., _init or _fork is yours until you pass it to the
 * function ending in _free, which sets your pointer to NULL. Freeing NULL returns SLLM_STATUS_OK and does nothing, so
 * freeing twice through the same pointer is harmless. (Another copy of a freed pointer is as invalid as any freed
 * memory.) An object keeps the objects it was made from alive: a model may be freed before its sessions. Arguments
 * stay yours; texts and options are copied if they are needed later. There are two exceptions: image bytes
 * (sllm_model_init, sllm_model_open_memory) and memory passed to an _init function must stay in place until
 * everything made from them is freed. On failure the library keeps nothing and makes no object.
 *
 * Threads. Models and tokenizers never change: any number of threads may use them at once. Sessions, samplers and
 * chats belong to one thread at a time; a call during another call on the same object, even from a callback of that
 * call, is refused with SLLM_STATUS_BUSY. sllm_session_cancel may be called from any thread at any time before
 * sllm_session_free. Freeing must not race with other calls.
 *
 * Callbacks run on the thread of the call, except the tasks of a parallel_for and, when one of the library's own
 * threads fails, the log. They must return: no exceptions, no longjmp.
 *
 * Structures begin with struct_size, which you set to sizeof (the _defaults functions do). Later versions of the library
 * may add fields at the end; each structure marks where its first version ends. Every size from there on is accepted.
 * Fields beyond your size (and one that it cuts) get their defaults in structures that you pass, and are not written in
 * structures that the library fills in. A structure larger than the library knows must have zeros in the unknown bytes,
 * or SLLM_STATUS_UNSUPPORTED is returned; the library writes zeros to them. A size below the first version, or above
 * 4096, gives SLLM_STATUS_INVALID_ARGUMENT.
 *
 * Texts are UTF-8, and this is checked. Where a function takes a length, SLLM_NUL_TERMINATED stands for strlen.
 *
 * Panics. An error inside the library comes back as SLLM_STATUS_INTERNAL. The session, sampler and chat that the call
 * used are then poisoned, because they may be half changed: they accept nothing but _free.
 *
 * Memory. Where the system has no more, a call ends with SLLM_STATUS_OUT_OF_MEMORY. Large allocations are asked for first, and small
 * ones of a call that has begun come from a reserve of 4 MB. Reading, sampling, saving and loading tokens allocates nothing.
 * Two things are left that end the process: an allocation of a tokenizer, template or grammar that the reserve has no
 * room for, and a new thread for whose data the system's C library has no memory.
 *
 * Nothing is global: no environment variables, no files but those you name, no network, no state but the log callback.
 *
 * EMBEDDED USE. The first part of this header also exists as a static library without libc and without allocation:
 * define SLLM_EMBEDDED before the include and link libshadowllm-embedded.a, which needs at most memcpy, memmove,
 * memset, memcmp and bcmp from the program. There, an error inside the library executes a trap instruction, because
 * nothing can be unwound.
 */
#ifndef SHADOWLLM_H
#define SHADOWLLM_H

#include <stddef.h>
#include <stdint.h>

#define SLLM_VERSION_MAJOR 0
#define SLLM_VERSION_MINOR 1
#define SLLM_VERSION_PATCH 0
#define SLLM_VERSION (SLLM_VERSION_MAJOR * 1000000 + SLLM_VERSION_MINOR * 1000 + SLLM_VERSION_PATCH)

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Version ---------------------------------------------------------------------------------------------------- */

/* Version of the library: major * 1000000 + minor * 1000 + patch. Before 1.0 header and library must agree in major
 * and minor, from 1.0 on in major, with a library that is not older:
 *     if (sllm_version() / 1000 != SLLM_VERSION / 1000) ...  */
uint32_t sllm_version(void);

/* The newest image format the library reads. */
uint32_t sllm_image_version(void);

/* ---- Status ----------------------------------------------------------------------------------------------------- */

#define SLLM_STATUS_OK 0
#define SLLM_STATUS_INVALID_ARGUMENT 1  /* NULL, an option out of its range, a struct_size that was not set */
#define SLLM_STATUS_INVALID_HANDLE 2    /* not an object of this kind, or one that was freed */
#define SLLM_STATUS_BUSY 3              /* another call uses the object: on another thread, or around this callback */
#define SLLM_STATUS_OUT_OF_MEMORY 4     /* the system does not have enough */
#define SLLM_STATUS_BUFFER_TOO_SMALL 5  /* memory or a buffer that the caller gave */
#define SLLM_STATUS_IO 6                /* a file cannot be read */
#define SLLM_STATUS_BAD_IMAGE 7         /* not an image, damaged, cut off, or of a newer format */
#define SLLM_STATUS_UNSUPPORTED 8       /* this model or this build of the library cannot do this */
#define SLLM_STATUS_TOKEN_OUT_OF_RANGE 9 /* an id that is not in the vocabulary */
#define SLLM_STATUS_CONTEXT_FULL 10     /* the tokens do not fit into the rest of the context */
#define SLLM_STATUS_CANCELLED 11        /* by sllm_session_cancel, or by a progress callback */
#define SLLM_STATUS_INVALID_UTF8 12     /* a text is not UTF-8 */
#define SLLM_STATUS_NO_LOGITS 13        /* no token was read yet, or none since the last rewind */
#define SLLM_STATUS_BAD_STATE 14        /* a saved state that is damaged, or of another model or KV format */
#define SLLM_STATUS_INTERNAL 15         /* an error of the library; the objects are poisoned */

/* The code's name ("SLLM_STATUS_OK"), or "unknown". Never NULL; do not free it. */
const char *sllm_status_name(int32_t status);

/* A general sentence about the code. Never NULL; do not free it. */
const char *sllm_status_message(int32_t status);

/* ---- Objects ---------------------------------------------------------------------------------------------------- */

/* A packed model: immutable, reference-counted, shared by threads and sessions. */
typedef struct sllm_model sllm_model;
/* The tokens read so far (the KV cache), and buffers to read more. */
typedef struct sllm_session sllm_session;
/* Chooses tokens: options, random state, the latest tokens. */
typedef struct sllm_sampler sllm_sampler;

/* ---- Model ------------------------------------------------------------------------------------------------------ */

/* Bytes that sllm_model_init needs, alignment included. */
size_t sllm_model_size(void);

/* A model over an image that is in memory (flash, an array), in `memory` of at least sllm_model_size() bytes, of any
 * alignment. Allocates nothing. Image (aligned to 4 bytes) and memory must stay in place until the model and all its
 * sessions are freed. */
int32_t sllm_model_init(void *memory, size_t size, const void *image, size_t image_size, sllm_model **model);

/* Counts one more reference: the model then needs one more sllm_model_free. */
int32_t sllm_model_retain(sllm_model *model);

/* Gives a reference back and sets *model to NULL. Sessions and tokenizers hold references of their own. */
int32_t sllm_model_free(sllm_model **model);

typedef struct sllm_model_info {
    uint32_t struct_size;
    uint32_t vocab;          /* token ids are below this; also the number of logits */
    uint32_t layers;
    uint32_t width;          /* of the residual stream */
    uint32_t heads;
    uint32_t kv_heads;
    uint32_t neurons;        /* of a layer's feed-forward part */
    uint32_t trained_context; /* positions it was trained for */
    int32_t bos;             /* beginning-of-sequence token; -1: none */
    /* first version ends here */
    uint32_t has_tokenizer;
    uint32_t has_chat_template;
    uint32_t is_calibrated;  /* whether the image holds what sllm_session_set_sparsity needs */
    uint64_t image_bytes;
    uint64_t bytes_per_token; /* of weights, read to decode a token when nothing is skipped */
    const char *isa;         /* instruction set of the kernels in use ("avx512"); do not free it */
    uint32_t most_context;   /* the most positions of a session; of some models (learned positions, LongRoPE) the trained ones */
    uint32_t reserved;
} sllm_model_info;

/* Fills `info`, whose struct_size must be set. */
int32_t sllm_model_get_info(const sllm_model *model, sllm_model_info *info);

/* The tokens that end a text, `count` of them (perhaps none). They belong to the model. */
int32_t sllm_model_end_tokens(const sllm_model *model, const uint32_t **tokens, size_t *count);

/* What the image records about its origin (source, family, number formats, calibration): a JSON object of `length` bytes
 * without a NUL, possibly empty. It belongs to the model. */
int32_t sllm_model_metadata(const sllm_model *model, const char **json, size_t *length);

/* Writes 1 when the token ends a text, else 0. */
int32_t sllm_model_is_end(const sllm_model *model, uint32_t token, int32_t *is_end);

/* ---- Session: memory -------------------------------------------------------------------------------------------- */

/* task(data, i) is one piece of a step; the pieces of a step are independent. */
typedef void (*sllm_task_fn)(void *data, uint32_t index);

/* Your threads: calls task(data, 0), ..., task(data, tasks - 1), on any threads, in any order, and returns when all
 * of them have returned. (The library makes forgotten calls itself; surplus calls do nothing.) */
typedef void (*sllm_parallel_for_fn)(void *user, uint32_t tasks, sllm_task_fn task, void *data);

/* Your clock, in nanoseconds from any start. */
typedef uint64_t (*sllm_clock_fn)(void *user);

#define SLLM_KV_AUTO 0 /* f16, or f32 where the weights are */
#define SLLM_KV_F16 1
#define SLLM_KV_F32 2

#define SLLM_CORES_FASTEST 0 /* on machines with fast and slow cores, the fast ones only */
#define SLLM_CORES_ANY 1     /* wherever the system puts the threads */

/* All zeros but struct_size are the defaults. */
typedef struct sllm_session_options {
    uint32_t struct_size;
    uint32_t context;    /* positions, prompt and answer together; 0: what the model was trained for, 4096 at most */
    /* first version ends here */
    uint32_t batch;      /* tokens of a prefill computed together, no more than the context; 0: 128 */
    uint32_t kv_format;  /* SLLM_KV_... */
    uint32_t dense_only; /* 1 leaves out the memory for skipping: sparsity can then not be set */
    uint32_t threads;    /* tasks at a time; 0: one per core for sllm_session_new, else 1 */
    uint32_t cores;      /* SLLM_CORES_...; for the library's own threads */
    uint32_t memory_budget; /* MB of the weights to keep in memory, the rest is read from the model's file for each token;
                               0: the system decides. For sllm_session_new without parallel_for; on Unix */
    sllm_parallel_for_fn parallel_for; /* your threads; NULL: the library's, or without those the calling thread */
    void *parallel_for_user;
    sllm_clock_fn clock; /* for statistics; NULL: the system's, or without one all times are 0 */
    void *clock_user;
    uint32_t exact;      /* 1: answers (sllm_generate, sllm_chat_generate) are those of a session that skips nothing, bit
                            for bit. Tokens are guessed, from the text so far or under the dial, and several
                            guesses are checked in one pass, so that the dial changes the time of an answer only. Takes
                            memory for 15 more rows of logits */
    uint32_t reserved;   /* 0 */
} sllm_session_options;

/* Fills in the defaults; `struct_size` is sizeof *options. */
int32_t sllm_session_options_defaults(sllm_session_options *options, uint32_t struct_size);

/* Bytes of memory that sllm_session_init needs. `options` may be NULL. */
int32_t sllm_session_size(const sllm_model *model, const sllm_session_options *options, size_t *size);

typedef struct sllm_memory {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t session_bytes; /* that sllm_session_new allocates; pages are taken when first used */
    /* first version ends here */
    uint64_t kv_bytes;      /* of these, the KV cache */
    uint64_t image_bytes;   /* mapped, not copied: the system keeps the pages in use */
    uint64_t total_bytes;   /* of session and image */
} sllm_memory;

/* The memory that a session will take, before any is taken. `options` may be NULL. */
int32_t sllm_estimate_memory(const sllm_model *model, const sllm_session_options *options, sllm_memory *memory);

/* A session in `memory` of at least sllm_session_size bytes, of any alignment, which must stay in place until the
 * session is freed. Never allocates: threads are 1 or your parallel_for's. `options` may be NULL. */
int32_t sllm_session_init(sllm_model *model, const sllm_session_options *options, void *memory, size_t size,
                          sllm_session **session);

/* Frees a session and sets *session to NULL. During another call on the session: SLLM_STATUS_BUSY, and nothing is done. */
int32_t sllm_session_free(sllm_session **session);

/* ---- Session: tokens in, logits out ----------------------------------------------------------------------------- */

/* Reads tokens in batches; each batch reads all weights once. SLLM_STATUS_TOKEN_OUT_OF_RANGE and
 * SLLM_STATUS_CONTEXT_FULL are returned before anything is read; after SLLM_STATUS_CANCELLED the position is that after
 * the last whole batch. */
int32_t sllm_session_prefill(sllm_session *session, const uint32_t *tokens, size_t count);

/* Gets the logits after token `index` of the call, [vocab], which are valid until it returns. */
typedef void (*sllm_logits_fn)(void *user, size_t index, const float *logits, size_t count);

/* Like sllm_session_prefill, but gives the logits after every token; none are left for sllm_session_logits. */
int32_t sllm_session_prefill_each(sllm_session *session, const uint32_t *tokens, size_t count, sllm_logits_fn on_logits,
                                  void *user);

/* Reads one token, skipping weights as the dial is set. */
int32_t sllm_session_decode(sllm_session *session, uint32_t token);

/* The last token's logits, [vocab]. They belong to the session and are valid until its next call. */
int32_t sllm_session_logits(const sllm_session *session, const float **logits, size_t *count);

/* Chooses a token from the logits; NULL for `sampler` takes the likeliest. This neither reads the
 * token (sllm_session_decode) nor notes it for the repetition penalty (sllm_sampler_accept). */
int32_t sllm_session_sample(sllm_session *session, sllm_sampler *sampler, uint32_t *token);

/* Positions in all; the position says how many are used. */
int32_t sllm_session_context(const sllm_session *session, size_t *context);

/* The tokens read so far, `count` of them. They belong to the session and are valid until its next call. */
int32_t sllm_session_tokens(const sllm_session *session, const uint32_t **tokens, size_t *count);

/* The position after the last whole batch. Any thread may call this at any time, also while another call reads a long
 * prompt, to show its progress. */
int32_t sllm_session_progress(const sllm_session *session, size_t *position);

/* Tokens read so far. */
int32_t sllm_session_position(const sllm_session *session, size_t *position);

/* Goes back to an earlier position and forgets the tokens after it. There are no logits until the next token is read.
 * Policies that learn from tokens start over with the tokens read after this. */
int32_t sllm_session_rewind(sllm_session *session, size_t position);

/* Makes the current call on this session, or else the next one that reads tokens, stop within one layer of its batch
 * and return SLLM_STATUS_CANCELLED. The session stays usable. May be called from any thread and from signal handlers. To
 * end an answer after a token it is simpler to return anything but 0 from on_token: that is a success, with
 * SLLM_STOP_CALLBACK and all figures. A cancel also ends the reading of a long prompt; its figures are in
 * sllm_session_get_stats. Where a cancel may come while nothing runs (Ctrl-C at a prompt), call
 * sllm_session_reset_cancel before the next call. */
int32_t sllm_session_cancel(sllm_session *session);

/* Takes back a cancel that came too late to stop a call. */
int32_t sllm_session_reset_cancel(sllm_session *session);

/* ---- Session: state --------------------------------------------------------------------------------------------- */

/* Bytes that sllm_session_save would write now; grows with the position. */
int32_t sllm_session_state_size(const sllm_session *session, size_t *size);

/* Copies the state (tokens, KV cache, logits, what the choice of weights remembers) to `buffer`, without the dial; a
 * sampler's random state is saved with sllm_sampler_save. `written` may be NULL. */
int32_t sllm_session_save(const sllm_session *session, void *buffer, size_t size, size_t *written);

/* Continues from a saved state of the same model and KV format, in a session whose context is long enough. With the same
 * dial the next tokens give the same bits as in the saved session; with another dial the next token makes a new choice,
 * from the state's statistics. States of another version of the library may be refused. On failure the session stays as
 * it was. */
int32_t sllm_session_load(sllm_session *session, const void *buffer, size_t size);

/* ---- Session: sparsity ------------------------------------------------------------------------------------------ */

#define SLLM_SPARSITY_OFF 0    /* reads everything: the same bits as a session with dense_only */
#define SLLM_SPARSITY_LIGHT 1  /* reads nine tenths of what can be skipped, by the policy that calibration found best */
#define SLLM_SPARSITY_MEDIUM 2 /* reads four fifths */
#define SLLM_SPARSITY_STRONG 3 /* reads three fifths */

/* Sets the dial by level. For an image that is not calibrated and for a session with dense_only:
 * SLLM_STATUS_UNSUPPORTED, and the dial stays as it was. Decoding skips; a prefill is dense. */
int32_t sllm_session_set_sparsity(sllm_session *session, int32_t level);

#define SLLM_POLICY_OFF 0
#define SLLM_POLICY_STATIC 2     /* mean importance; calibrated */
#define SLLM_POLICY_RANDOM 3     /* by chance, for comparison */
#define SLLM_POLICY_PROMPT 4     /* statistics of the prompt */
#define SLLM_POLICY_SHADOW 5     /* one predictor for all layers; calibrated */
#define SLLM_POLICY_PER_LAYER 6  /* a predictor in every layer; calibrated */
#define SLLM_POLICY_GATE 7       /* the gate, computed first; calibrated */
#define SLLM_POLICY_INPUT 8      /* thresholds on the inputs of every matrix; calibrated */
#define SLLM_POLICY_INPUT_TOP 9  /* a fixed share of the largest inputs */
#define SLLM_POLICY_ORACLE 10    /* the exact importance, computed first: saves nothing, for comparison */
#define SLLM_POLICY_AUTO 11      /* the policy that calibration found best for the density */
#define SLLM_POLICY_MIXED 12     /* thresholds in attention, the shadow predictor for neurons; calibrated */
#define SLLM_POLICY_PROMPT_INPUT 13 /* thresholds on inputs, from statistics of the prompt; not calibrated */
#define SLLM_POLICY_OUTPUT 14       /* all is read but rows of the output matrix, in images with a sketch of it */

#define SLLM_ALLOCATION_GLOBAL 0 /* the density divided among layers as calibration found best */
#define SLLM_ALLOCATION_LOCAL 1  /* the same density in every layer */
#define SLLM_ALLOCATION_HYBRID 2 /* the mean of both */

typedef struct sllm_dial {
    uint32_t struct_size;
    int32_t policy;     /* SLLM_POLICY_... */
    float density;      /* share of the skippable bytes that is read, above 0 and at most 1 */
    uint32_t refresh;   /* tokens decoded with one choice of heads and neurons; 0: one choice after each prefill */
    /* first version ends here */
    int32_t allocation; /* SLLM_ALLOCATION_... */
    uint32_t reserved;  /* 0 */
    uint64_t seed;      /* of SLLM_POLICY_RANDOM */
    float output_window; /* 8; in an image with a sketch of its output matrix, rows are read whose logits are estimated at
                            most this far below the largest one, and the other logits are estimates. INFINITY reads all
                            rows */
    uint32_t reserved2; /* 0 */
} sllm_dial;

/* Off, density 1, refresh 1. */
int32_t sllm_dial_defaults(sllm_dial *dial, uint32_t struct_size);

/* Sets the dial in full. */
int32_t sllm_session_set_dial(sllm_session *session, const sllm_dial *dial);

/* The dial in force, with the policy that SLLM_POLICY_AUTO chose; its struct_size must be set. */
int32_t sllm_session_get_dial(const sllm_session *session, sllm_dial *dial);

/* ---- Session: statistics ---------------------------------------------------------------------------------------- */

/* Sums since the session was made or sllm_session_reset_stats was called. Times need a clock. */
typedef struct sllm_stats {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t prompt_tokens;           /* read by prefills */
    uint64_t decoded_tokens;
    uint64_t prefill_nanoseconds;
    uint64_t decode_nanoseconds;
    /* first version ends here */
    uint64_t first_token_nanoseconds; /* from the beginning of the last prefill to the first token chosen after it */
    uint64_t weight_bytes;            /* read by decoding, predictors included */
    uint64_t predictor_bytes;         /* of these, read to choose what to skip */
    uint64_t predictor_nanoseconds;
    uint64_t kv_bytes;                /* of the cache, read by decoding */
    uint64_t session_bytes;           /* the session's memory */
    uint64_t peak_memory_bytes;       /* of the process; 0 where the system does not report it */
    double density;                   /* share of the skippable bytes that decoding read; 1 before the first token. Inputs
                                         that are exactly 0 are never read, so it may be below 1 with the dial off */
    double prefill_tokens_per_second;
    double decode_tokens_per_second;
} sllm_stats;

/* Fills `stats`, whose struct_size must be set. */
int32_t sllm_session_get_stats(const sllm_session *session, sllm_stats *stats);

/* Sets all sums to 0. */
int32_t sllm_session_reset_stats(sllm_session *session);

/* ---- Sampler ---------------------------------------------------------------------------------------------------- */

typedef struct sllm_sampler_options {
    uint32_t struct_size;
    float temperature;        /* 0.8; divides the logits; 0 takes the likeliest */
    uint32_t top_k;           /* 40; only the k likeliest; 0 for all */
    float top_p;              /* 0.95; only the likeliest that together reach this probability; 1 for all */
    /* first version ends here */
    float min_p;              /* 0.05; only tokens at least this share as likely as the likeliest; 0 for all */
    float repetition_penalty; /* 1; above 1 makes the last 64 tokens less likely */
    uint64_t seed;            /* 0; the same seed, tokens and logits give the same tokens everywhere */
    float presence_penalty;   /* 0; subtracted from the logits of the last 64 tokens, once */
    float frequency_penalty;  /* 0; subtracted from a token's logit for each time it is among the last 64 */
} sllm_sampler_options;

/* Fills in the defaults. */
int32_t sllm_sampler_options_defaults(sllm_sampler_options *options, uint32_t struct_size);

/* Bytes that sllm_sampler_init needs, alignment included. */
size_t sllm_sampler_size(void);

/* A sampler in `memory`, which must stay in place until the sampler is freed. `options` may be NULL. */
int32_t sllm_sampler_init(void *memory, size_t size, const sllm_sampler_options *options, sllm_sampler **sampler);

/* Bytes that sllm_sampler_save writes. */
size_t sllm_sampler_state_size(void);

/* Copies the random state and the latest tokens to `buffer`, without the options. */
int32_t sllm_sampler_save(const sllm_sampler *sampler, void *buffer, size_t size);

/* Continues from a saved state: with the same options and a session that was also saved and loaded, the next tokens are
 * those that would have followed. On failure the sampler stays as it was. */
int32_t sllm_sampler_load(sllm_sampler *sampler, const void *buffer, size_t size);

/* Notes a token of the prompt or of the answer for the repetition penalty. */
int32_t sllm_sampler_accept(sllm_sampler *sampler, uint32_t token);

/* Frees a sampler and sets *sampler to NULL. */
int32_t sllm_sampler_free(sllm_sampler **sampler);

#ifndef SLLM_EMBEDDED

/* ==== With an operating system =================================================================================== */

/* The message of this thread's last failure, at most 1023 bytes. Never NULL, empty before the first failure, valid
 * until the thread's next one. */
const char *sllm_last_error_message(void);

#define SLLM_LOG_OFF 0
#define SLLM_LOG_ERROR 1
#define SLLM_LOG_INFO 2

/* Gets a line of text, without a newline. May be called from several threads at once. */
typedef void (*sllm_log_fn)(void *user, int32_t level, const char *message);

/* Sets the log, the only global state: `log` gets a line for each event up to `level`. NULL, as at first: no log. */
int32_t sllm_set_log(sllm_log_fn log, void *user, int32_t level);

/* ---- Model: from files ------------------------------------------------------------------------------------------ */

/* Gets the progress of loading; any result but 0 cancels it (SLLM_STATUS_CANCELLED). Called at least at the beginning
 * and at the end. */
typedef int32_t (*sllm_progress_fn)(void *user, uint64_t done_bytes, uint64_t total_bytes);

typedef struct sllm_load_options {
    uint32_t struct_size;
    uint32_t preload; /* 1 reads the whole file now, so that the first token does not wait for it */
    uint32_t verify;  /* 1 compares every section with its checksum (reads the whole file) */
    /* first version ends here */
    uint32_t in_memory; /* 1 reads the whole file into memory, on huge pages where Linux has them: decoding is often faster,
                           and later changes of the file have no effect */
    sllm_progress_fn progress; /* may be NULL */
    void *progress_user;
} sllm_load_options;

/* Fills in the defaults: the file is mapped, and only its head is checked. */
int32_t sllm_load_options_defaults(sllm_load_options *options, uint32_t struct_size);

/* Maps an image. `options` may be NULL. While it is in use the file may be replaced or deleted, but not written to or
 * cut short, which ends the process (SIGBUS); with in_memory it may be. A folder, pipe or device is refused. */
int32_t sllm_model_open(const char *path, const sllm_load_options *options, sllm_model **model);

/* Maps an image at `offset` (a multiple of 4) in an open file; `length` 0 is the rest of the file. The descriptor stays
 * yours and may be closed when the call returns. */
int32_t sllm_model_open_fd(int32_t fd, uint64_t offset, uint64_t length, const sllm_load_options *options,
                           sllm_model **model);

/* A model over bytes in memory (aligned to 4), which must stay in place until the model and all objects made from it
 * are freed. */
int32_t sllm_model_open_memory(const void *data, size_t size, const sllm_load_options *options, sllm_model **model);

/* ---- Session: with its own memory and threads ------------------------------------------------------------------- */

/* A session. `options` may be NULL. */
int32_t sllm_session_new(sllm_model *model, const sllm_session_options *options, sllm_session **session);

/* A second session that continues from the state of the first, as if by sllm_session_save and sllm_session_load: the
 * same model, options (a parallel_for and a clock now serve both), dial and state. */
int32_t sllm_session_fork(const sllm_session *session, sllm_session **fork);

/* Sets the dial's policy and density by what people want; the rest of the dial stays as it was set.
 * max_loss: how much the perplexity may grow (0.01: one percent), as calibration measured it on its own text; below 0:
 *   5 percent where calibration measured it, else only rows of the output matrix are skipped (of an image with a sketch
 *   of it). 0 or more for an image without such measurements: SLLM_STATUS_UNSUPPORTED.
 * seconds_per_token: with 0, as little is read as max_loss allows. Otherwise no less is read than the time asks for: the
 *   session must have read nothing; some 20 to 40 tokens are decoded to measure times (the statistics count them), and the
 *   dial then follows the times of decoding and of answers, until it is set otherwise.
 *   A session with `exact` refuses a time (SLLM_STATUS_INVALID_ARGUMENT): its answers check several tokens in a pass, and
 *   do not take the time of decoding one by one.
 * expected_seconds (may be NULL): the time of a token with the dial that was chosen. Above seconds_per_token: the time is
 *   out of reach, and the fastest dial was chosen. 0 with seconds_per_token 0. */
int32_t sllm_session_set_pace(sllm_session *session, double seconds_per_token, float max_loss, double *expected_seconds);

typedef struct sllm_threads {
    uint32_t struct_size;
    uint32_t threads;   /* tasks at a time, the calling thread's included */
    /* first version ends here */
    uint32_t cores;     /* cores that the library's threads may run on */
    uint32_t is_bound;  /* whether they are bound to these cores (the calling thread never is) */
    uint64_t core_mask; /* bit i: core i, for the first 64; 0 where the system does not report it */
} sllm_threads;

/* The threads and cores that the session really uses; `struct_size` must be set. */
int32_t sllm_session_get_threads(const sllm_session *session, sllm_threads *threads);

/* A sampler. `options` may be NULL. */
int32_t sllm_sampler_new(const sllm_sampler_options *options, sllm_sampler **sampler);

/* ---- Text ------------------------------------------------------------------------------------------------------- */
/* In a library built without the tokenizer these functions return SLLM_STATUS_UNSUPPORTED. */

/* In place of a length: the text ends with a NUL. */
#define SLLM_NUL_TERMINATED ((size_t)-1)

/* Texts to tokens and back: immutable, for any threads. */
typedef struct sllm_tokenizer sllm_tokenizer;
/* A conversation: its messages. */
typedef struct sllm_chat sllm_chat;
/* A form for answers: immutable, for any threads. */
typedef struct sllm_grammar sllm_grammar;

/* The model's tokenizer. Takes some tens of milliseconds. SLLM_STATUS_UNSUPPORTED if the image has none. */
int32_t sllm_tokenizer_new(sllm_model *model, sllm_tokenizer **tokenizer);

/* Frees a tokenizer and sets *tokenizer to NULL. Chats hold references of their own. */
int32_t sllm_tokenizer_free(sllm_tokenizer **tokenizer);

#define SLLM_TOKENIZE_ADD_SPECIAL 1 /* adds the special tokens that the model expects before a text (a beginning token) */
#define SLLM_TOKENIZE_CONTROL 2     /* the texts of control tokens ("<|im_end|>") are control tokens: for prompts that you
                                       make, not for texts of others, who could end a turn and begin another */

/* Token ids of a text; `flags` are SLLM_TOKENIZE_... or 0. With NULL for `tokens` and a capacity of 0 only the count is
 * written. */
int32_t sllm_tokenizer_tokenize(const sllm_tokenizer *tokenizer, const char *text, size_t length, int32_t flags,
                                uint32_t *tokens, size_t capacity, size_t *count);

/* Text of token ids without special tokens, followed by a NUL that `length` does not count. With NULL for `text` and a
 * capacity of 0 only the length is written. */
int32_t sllm_tokenizer_detokenize(const sllm_tokenizer *tokenizer, const uint32_t *tokens, size_t count, char *text,
                                  size_t capacity, size_t *length);

/* Text of one token for people, followed by a NUL that `length` does not count: also of special tokens ("<|im_end|>");
 * a part of a character is U+FFFD. With NULL for `text` and a capacity of 0 only the length is written. */
int32_t sllm_tokenizer_token_text(const sllm_tokenizer *tokenizer, uint32_t token, char *text, size_t capacity,
                                  size_t *length);

/* Bytes of one token, possibly a part of a character; none for special tokens. With NULL for `bytes` and a
 * capacity of 0 only the length is written. */
int32_t sllm_tokenizer_token_bytes(const sllm_tokenizer *tokenizer, uint32_t token, uint8_t *bytes, size_t capacity,
                                   size_t *length);

/* A token and the natural logarithm of its probability by the model, before biases, penalties and temperature. */
typedef struct sllm_logprob {
    uint32_t token;
    float logprob;
} sllm_logprob;

#define SLLM_GRAMMAR_JSON_SCHEMA 1 /* JSON that is valid against a JSON schema */
#define SLLM_GRAMMAR_REGEX 2       /* a text that a regular expression matches whole */
#define SLLM_GRAMMAR_LARK 3        /* a text that the rule `start` of a grammar in Lark's notation produces */

/* A grammar for the `grammar` of sllm_generate_options: answers are then texts that it produces, unless they are cut off. Rules
 * that cannot be followed, or that would take too much time or memory, give SLLM_STATUS_INVALID_ARGUMENT and a message
 * that says why; in a library without grammars: SLLM_STATUS_UNSUPPORTED. The first grammar of a tokenizer takes some tens of
 * milliseconds more. */
int32_t sllm_grammar_new(const sllm_tokenizer *tokenizer, int32_t kind, const char *text, size_t length,
                         sllm_grammar **grammar);

/* Frees a grammar and sets *grammar to NULL. */
int32_t sllm_grammar_free(sllm_grammar **grammar);

/* One token of an answer, valid during the callback. */
typedef struct sllm_token {
    uint32_t struct_size;
    uint32_t id;
    const char *text;      /* complete UTF-8, followed by a NUL; empty while a character is not complete */
    size_t text_length;
    const uint8_t *bytes;  /* the token's own bytes; those of all tokens together are the text */
    size_t bytes_length;
    /* first version ends here */
    uint64_t index;        /* of the token in the answer, from 0 */
    double tokens_per_second; /* of decoding so far */
    double density;           /* share of the skippable bytes that decoding has read so far */
    double logprob;           /* logarithm of the token's probability; 0 unless `logprobs` of the options is set, and for
                                 tokens that a grammar forces */
    const sllm_logprob *top;  /* the likeliest tokens with their logarithms, likeliest first, */
    size_t top_count;         /* and their number */
    uint32_t thought;         /* 1 within a block in which the model thinks before it answers (<think> ... </think>), with
                                 the marks around it; else 0 */
    uint32_t reserved;        /* 0 */
} sllm_token;

/* Gets each token as it comes; any result but 0 stops. Text that is still held back after the last token comes in one
 * more call, without bytes. (With stop strings the bytes are still each token's own, and the text ends before them.) */
typedef int32_t (*sllm_token_fn)(void *user, const sllm_token *token);

/* A token and what is added to its logit: a number, or minus infinity to rule the token out. */
typedef struct sllm_bias {
    uint32_t token;
    float bias;
} sllm_bias;

typedef struct sllm_generate_options {
    uint32_t struct_size;
    uint32_t max_tokens;    /* 256 */
    /* first version ends here */
    sllm_token_fn on_token; /* may be NULL */
    void *user;
    uint32_t control_tokens; /* 1: the texts of control tokens are control tokens in the prompt of sllm_generate and in
                                the messages of a chat; 0: they are text. Those of the chat template always are */
    uint32_t logprobs;      /* 0; n, at most 64: each token comes with its log-probability and those of the n likeliest */
    const char *const *stop; /* `stop_count` stop strings, at most 64 of 1 to 1024 bytes: the answer ends before the first
                                of them, also where it spans several tokens; text that may begin one is held back */
    size_t stop_count;
    const sllm_bias *bias;  /* `bias_count` tokens with a bias, at most 4096 */
    size_t bias_count;
    const sllm_grammar *grammar; /* NULL; the form of the answer. Tokens that are the only possible ones are read together */
    float dry_multiplier;   /* 0; above 0 makes tokens less likely that would lengthen a repetition, as llama.cpp's DRY sampler
                               does: by dry_multiplier * dry_base ^ (length - dry_allowed_length) */
    float dry_base;         /* 1.75; at least 1 */
    uint32_t dry_allowed_length; /* 2; shorter repetitions are free */
    uint32_t dry_last;      /* 0; tokens in which repetitions are looked for; 0 for all that the session has read */
} sllm_generate_options;

/* Fills in the defaults. */
int32_t sllm_generate_options_defaults(sllm_generate_options *options, uint32_t struct_size);

#define SLLM_STOP_END 1          /* the model ended its answer */
#define SLLM_STOP_MAX_TOKENS 2
#define SLLM_STOP_CONTEXT_FULL 3 /* no position is left */
#define SLLM_STOP_CALLBACK 4
#define SLLM_STOP_STRING 5       /* one of the stop strings */

typedef struct sllm_generation {
    uint32_t struct_size;
    int32_t stop;              /* SLLM_STOP_... */
    uint64_t prompt_tokens;    /* read now; a chat does not read again what its session has read before */
    uint64_t generated_tokens;
    /* first version ends here */
    double first_token_seconds;
    double prefill_tokens_per_second;
    double decode_tokens_per_second;
    int32_t stop_string;       /* for SLLM_STOP_STRING its place in the options' list, else -1 */
    uint32_t reserved;
    uint64_t forced_tokens;    /* of the generated ones: the only ones that the grammar allowed */
} sllm_generation;

/* Reads a plain text after the tokens that the session has read, and continues it. At position 0 the special tokens
 * that the model expects before a text are added. NULL for `sampler` takes the likeliest tokens; `options` and `result`
 * (struct_size set) may be NULL. */
int32_t sllm_generate(sllm_session *session, const sllm_tokenizer *tokenizer, sllm_sampler *sampler, const char *prompt,
                      size_t length, const sllm_generate_options *options, sllm_generation *result);

/* A conversation by the model's chat template. SLLM_STATUS_UNSUPPORTED if it has none. */
int32_t sllm_chat_new(sllm_tokenizer *tokenizer, sllm_chat **chat);

/* Frees a chat and sets *chat to NULL. */
int32_t sllm_chat_free(sllm_chat **chat);

/* Adds a message, both parts NUL-terminated and copied. All templates know the roles "user" and "assistant", most of them
 * "system", some "tool" and others; one that does not know a role refuses the messages when they are rendered. */
int32_t sllm_chat_add(sllm_chat *chat, const char *role, const char *content);

/* Adds a message with all its fields, a JSON object with a role: {"role": "tool", "content": "...", "name": "..."}, or an
 * answer with its "tool_calls". What is no such object gives SLLM_STATUS_INVALID_ARGUMENT. */
int32_t sllm_chat_add_json(sllm_chat *chat, const char *json);

/* Gives the template a variable besides the messages, in JSON: "tools" (a list of descriptions), "documents",
 * "enable_thinking" (true or false), or what else the model's template knows. NULL for `json` removes it. What is no JSON
 * gives SLLM_STATUS_INVALID_ARGUMENT. */
int32_t sllm_chat_set_variable(sllm_chat *chat, const char *name, const char *json);

/* The tool calls in an answer, in the conventions of Hermes and Qwen, Llama 3, Mistral and Gemma, as JSON followed by a NUL
 * that `length` does not count: {"text": the rest of the answer, "calls": [{"name": "...", "arguments": {...}}]}. Without
 * calls the list is empty. With NULL for `json` and a capacity of 0 only the length is written. */
int32_t sllm_parse_tool_calls(const char *answer, size_t answer_length, char *json, size_t capacity, size_t *length);

/* The number of messages, answers included. */
int32_t sllm_chat_count(const sllm_chat *chat, size_t *count);

/* Message `index`, from 0. The texts belong to the chat, have no NUL, and are valid until a call that changes the chat. */
int32_t sllm_chat_message(const sllm_chat *chat, size_t index, const char **role, size_t *role_length,
                          const char **content, size_t *content_length);

/* Message `index` with all its fields, as JSON for sllm_chat_add_json, followed by a NUL that `length` does not count: what a
 * saved conversation keeps. It belongs to the chat, and is valid until a call that changes the chat or gives another message
 * as JSON. */
int32_t sllm_chat_message_json(const sllm_chat *chat, size_t index, const char **json, size_t *length);

/* Keeps the first `count` messages and removes the others: takes back a question, or an answer that should be generated
 * again. */
int32_t sllm_chat_truncate(sllm_chat *chat, size_t count);

/* Removes all messages. */
int32_t sllm_chat_clear(sllm_chat *chat);

/* A second conversation with the same messages. With a fork of the session (sllm_session_fork) it continues without reading
 * them again. */
int32_t sllm_chat_fork(const sllm_chat *chat, sllm_chat **fork);

/* The prompt that the model's template makes of the messages, followed by a NUL that `length` does not count. With NULL
 * for `text` and a capacity of 0 only the length is written. */
int32_t sllm_chat_render(const sllm_chat *chat, char *text, size_t capacity, size_t *length);

/* Answers the messages and adds the answer to them. The session is rewound to the tokens that it shares with the
 * beginning of the prompt, wherever it has them from (earlier answers, a loaded state, a fork), then reads the rest.
 * After a failure the messages are as they were; but an answer that is cancelled after its first token is kept as far as
 * it went, like one that the callback stops. If the prompt does not fit (SLLM_STATUS_CONTEXT_FULL), the session keeps the
 * tokens that it shares with it. Other arguments as for sllm_generate. */
int32_t sllm_chat_generate(sllm_chat *chat, sllm_session *session, sllm_sampler *sampler,
                           const sllm_generate_options *options, sllm_generation *result);

#endif /* SLLM_EMBEDDED */

#ifdef __cplusplus
}
#endif

#endif
