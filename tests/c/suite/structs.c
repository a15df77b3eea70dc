/* Structures that begin with their size: every size from the first version on, and sizes below and above. A field
 * that is passed is used if the size covers it; structures are filled in up to their size. */
#include "suite.h"

#include <math.h>
#include <stddef.h>

#define ROOM 256   /* more than any structure and UNKNOWN */
#define UNKNOWN 24 /* bytes of fields that the library does not know */
#define FILLER 0x5a
#define END(type, field) (offsetof(type, field) + sizeof(((type *)0)->field))
#define COUNT(a) (sizeof(a) / sizeof *(a))

/* A check whose failure names the size. */
#define AT(size, condition)                                                                                            \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s: size %zu: %s\n", __FILE__, __LINE__, layout->name, (size_t)(size), #condition); \
            failures++;                                                                                                \
        }                                                                                                              \
    } while (0)

struct layout {
    const char *name;
    size_t first, whole; /* sizes of the first version and of this one */
    const size_t *ends;  /* of the fields, in order */
    size_t fields;
};

#define LAYOUT(type, last_of_first)                                                                                    \
    static const struct layout type##_layout = {#type, END(type, last_of_first), sizeof(type), type##_ends,            \
                                                COUNT(type##_ends)}

#define F(field) END(sllm_model_info, field)
static const size_t sllm_model_info_ends[] = {
    F(struct_size), F(vocab), F(layers), F(width), F(heads), F(kv_heads), F(neurons), F(trained_context), F(bos),
    F(has_tokenizer), F(has_chat_template), F(is_calibrated), F(image_bytes), F(bytes_per_token), F(isa),
    F(most_context), F(reserved)};
LAYOUT(sllm_model_info, bos);
#undef F
#define F(field) END(sllm_session_options, field)
static const size_t sllm_session_options_ends[] = {
    F(struct_size), F(context), F(batch), F(kv_format), F(dense_only), F(threads), F(cores), F(memory_budget),
    F(parallel_for), F(parallel_for_user), F(clock), F(clock_user), F(exact), F(reserved)};
LAYOUT(sllm_session_options, context);
#undef F
#define F(field) END(sllm_memory, field)
static const size_t sllm_memory_ends[] = {F(struct_size), F(reserved), F(session_bytes), F(kv_bytes), F(image_bytes),
                                          F(total_bytes)};
LAYOUT(sllm_memory, session_bytes);
#undef F
#define F(field) END(sllm_dial, field)
static const size_t sllm_dial_ends[] = {F(struct_size), F(policy), F(density), F(refresh), F(allocation), F(reserved),
                                        F(seed), F(output_window),
                                        F(reserved2)};
LAYOUT(sllm_dial, refresh);
#undef F
#define F(field) END(sllm_stats, field)
static const size_t sllm_stats_ends[] = {
    F(struct_size), F(reserved), F(prompt_tokens), F(decoded_tokens), F(prefill_nanoseconds), F(decode_nanoseconds),
    F(first_token_nanoseconds), F(weight_bytes), F(predictor_bytes), F(predictor_nanoseconds), F(kv_bytes),
    F(session_bytes), F(peak_memory_bytes), F(density), F(prefill_tokens_per_second), F(decode_tokens_per_second)};
LAYOUT(sllm_stats, decode_nanoseconds);
#undef F
#define F(field) END(sllm_sampler_options, field)
static const size_t sllm_sampler_options_ends[] = {F(struct_size), F(temperature), F(top_k), F(top_p), F(min_p),
                                                   F(repetition_penalty), F(seed), F(presence_penalty),
                                                   F(frequency_penalty)};
LAYOUT(sllm_sampler_options, top_p);
#undef F
#define F(field) END(sllm_load_options, field)
static const size_t sllm_load_options_ends[] = {F(struct_size), F(preload), F(verify), F(in_memory), F(progress),
                                                F(progress_user)};
LAYOUT(sllm_load_options, verify);
#undef F
#define F(field) END(sllm_threads, field)
static const size_t sllm_threads_ends[] = {F(struct_size), F(threads), F(cores), F(is_bound), F(core_mask)};
LAYOUT(sllm_threads, threads);
#undef F
#define F(field) END(sllm_generate_options, field)
static const size_t sllm_generate_options_ends[] = {F(struct_size), F(max_tokens), F(on_token), F(user), F(control_tokens),
                                                    F(logprobs), F(stop), F(stop_count), F(bias), F(bias_count),
                                                    F(grammar), F(dry_multiplier), F(dry_base), F(dry_allowed_length),
                                                    F(dry_last)};
LAYOUT(sllm_generate_options, max_tokens);
#undef F
#define F(field) END(sllm_generation, field)
static const size_t sllm_generation_ends[] = {F(struct_size), F(stop), F(prompt_tokens), F(generated_tokens),
                                              F(first_token_seconds), F(prefill_tokens_per_second),
                                              F(decode_tokens_per_second), F(stop_string), F(reserved), F(forced_tokens)};
LAYOUT(sllm_generation, generated_tokens);
#undef F

static sllm_session *session;
static sllm_tokenizer *tokenizer;

static void set_size(void *structure, size_t size) {
    uint32_t number = (uint32_t)size;
    memcpy(structure, &number, sizeof number);
}

/* Bytes of the fields that fit wholly into `size`. */
static size_t fitting(const struct layout *layout, size_t size) {
    size_t i, fits = 0;
    for (i = 0; i < layout->fields; i++)
        if (layout->ends[i] <= size) fits = layout->ends[i];
    return fits;
}

/* `found` was filled in at `size` like `full` at its whole size, except for bytes from `varies` to `steady`, and nothing
 * was written beyond. */
static void check_filled(const struct layout *layout, const unsigned char *found, const unsigned char *full, size_t size,
                         size_t varies, size_t steady) {
    size_t i, fits = fitting(layout, size);
    for (i = 4; i < ROOM; i++) {
        if (i < fits) {
            if (i < varies || i >= steady) AT(size, found[i] == full[i]);
        } else if (i >= layout->whole && i < size) {
            AT(size, found[i] == 0);
        } else {
            AT(size, found[i] == FILLER);
        }
    }
}

/* ---- Structures that the library fills in ---- */

typedef int32_t (*fill_fn)(void *structure);

static void filled(const struct layout *layout, fill_fn fill, size_t varies, size_t steady) {
    unsigned char full[ROOM], found[ROOM];
    uint32_t written;
    size_t size, i;
    memset(full, FILLER, sizeof full);
    set_size(full, layout->whole);
    OK(fill(full));
    for (size = 0; size <= layout->whole + UNKNOWN; size++) {
        memset(found, FILLER, sizeof found);
        set_size(found, size);
        if (size < layout->first) {
            AT(size, fill(found) == SLLM_STATUS_INVALID_ARGUMENT);
            for (i = 4; i < ROOM; i++) AT(size, found[i] == FILLER);
        } else {
            AT(size, fill(found) == SLLM_STATUS_OK);
            check_filled(layout, found, full, size, varies, steady);
        }
        memcpy(&written, found, sizeof written);
        AT(size, written == size);
    }
    set_size(found, 4097);
    INVALID(fill(found));
}

static int32_t fill_info(void *to) { return sllm_model_get_info(model, to); }
static int32_t fill_memory(void *to) { return sllm_estimate_memory(model, NULL, to); }
static int32_t fill_dial(void *to) { return sllm_session_get_dial(session, to); }
static int32_t fill_stats(void *to) { return sllm_session_get_stats(session, to); }
static int32_t fill_threads(void *to) { return sllm_session_get_threads(session, to); }
static int32_t fill_generation(void *to) {
    sllm_generate_options options;
    OK(sllm_session_rewind(session, 0));
    OK(sllm_generate_options_defaults(&options, sizeof options));
    options.max_tokens = 2;
    return sllm_generate(session, tokenizer, NULL, "The", 3, &options, to);
}

/* ---- Structures that are passed ---- */

typedef int32_t (*defaults_fn)(void *options, uint32_t struct_size);
typedef int32_t (*pass_fn)(const void *options);

/* The defaults at every size. */
static void defaulted(const struct layout *layout, defaults_fn defaults) {
    unsigned char full[ROOM], found[ROOM];
    size_t size, i;
    memset(full, FILLER, sizeof full);
    OK(defaults(full, (uint32_t)layout->whole));
    for (size = 0; size <= layout->whole + UNKNOWN; size++) {
        memset(found, FILLER, sizeof found);
        if (size < layout->first) {
            AT(size, defaults(found, (uint32_t)size) == SLLM_STATUS_INVALID_ARGUMENT);
            for (i = 0; i < ROOM; i++) AT(size, found[i] == FILLER);
        } else {
            AT(size, defaults(found, (uint32_t)size) == SLLM_STATUS_OK);
            check_filled(layout, found, full, size, ROOM, ROOM);
        }
    }
    INVALID(defaults(found, 4097));
}

/* Passes the first `size` bytes of `options`, in memory that ends there, so that memory checkers see a byte too many. */
static int32_t pass_part(pass_fn pass, const unsigned char *options, size_t size) {
    unsigned char *part = malloc(size);
    int32_t status;
    memcpy(part, options, size);
    set_size(part, size);
    status = pass(part);
    free(part);
    return status;
}

/* `base` is valid. With `value` in the field that ends at `end`, the call returns `status` at every size that covers the
 * field, and at smaller sizes the result of the field's default, SLLM_STATUS_OK. */
static void taken(const struct layout *layout, pass_fn pass, const void *base, size_t end, const void *value,
                  size_t length, int32_t status) {
    unsigned char options[ROOM] = {0};
    size_t size;
    memcpy(options, base, layout->whole);
    memcpy(options + end - length, value, length);
    for (size = layout->first; size <= layout->whole + UNKNOWN; size++)
        AT(size, pass_part(pass, options, size) == (size >= end ? status : SLLM_STATUS_OK));
}

#define TAKEN(type, base, pass, field, bad, status)                                                                    \
    do {                                                                                                               \
        type changed_ = base;                                                                                          \
        changed_.field = (bad);                                                                                        \
        taken(&type##_layout, pass, &base, END(type, field), &changed_.field, sizeof changed_.field, status);          \
    } while (0)

/* Sizes that are refused, and unknown bytes. */
static void refused(const struct layout *layout, pass_fn pass, const void *base) {
    unsigned char options[ROOM] = {0}, large[4097] = {0};
    size_t size;
    memcpy(options, base, layout->whole);
    for (size = 4; size < layout->first; size++) AT(size, pass_part(pass, options, size) == SLLM_STATUS_INVALID_ARGUMENT);
    for (size = 0; size < 4; size++) {
        set_size(options, size);
        AT(size, pass(options) == SLLM_STATUS_INVALID_ARGUMENT);
    }
    for (size = layout->whole + 1; size <= layout->whole + UNKNOWN; size++) {
        options[size - 1] = 1;
        AT(size, pass_part(pass, options, size) == SLLM_STATUS_UNSUPPORTED);
        options[size - 1] = 0;
    }
    memcpy(large, base, layout->whole);
    AT(4096, pass_part(pass, large, 4096) == SLLM_STATUS_OK);
    AT(4097, pass_part(pass, large, 4097) == SLLM_STATUS_INVALID_ARGUMENT);
}

static int32_t session_defaults(void *to, uint32_t size) { return sllm_session_options_defaults(to, size); }
static int32_t dial_defaults(void *to, uint32_t size) { return sllm_dial_defaults(to, size); }
static int32_t sampler_defaults(void *to, uint32_t size) { return sllm_sampler_options_defaults(to, size); }
static int32_t load_defaults(void *to, uint32_t size) { return sllm_load_options_defaults(to, size); }
static int32_t generate_defaults(void *to, uint32_t size) { return sllm_generate_options_defaults(to, size); }

/* Valid options fail only at the memory, which is too small. */
static int32_t pass_session(const void *options) {
    sllm_session *none = NULL;
    int32_t status = sllm_session_init(model, options, NULL, 0, &none);
    CHECK(status != SLLM_STATUS_OK && none == NULL);
    return status == SLLM_STATUS_BUFFER_TOO_SMALL ? SLLM_STATUS_OK : status;
}

static int32_t pass_dial(const void *options) { return sllm_session_set_dial(session, options); }

static int32_t pass_sampler(const void *options) {
    sllm_sampler *sampler = NULL;
    int32_t status = sllm_sampler_new(options, &sampler);
    OK(sllm_sampler_free(&sampler));
    return status;
}

static int32_t pass_load(const void *options) {
    sllm_model *other = NULL;
    int32_t status = sllm_model_open_memory(image, image_size, options, &other);
    OK(sllm_model_free(&other));
    return status;
}

static int32_t cancel_loading(void *user, uint64_t done, uint64_t total) {
    (void)user;
    return done <= total;
}

/* SLLM_STATUS_CANCELLED stands for a stop by the callback. */
static int32_t pass_generate(const void *options) {
    sllm_generation result = {0};
    int32_t status;
    OK(sllm_session_rewind(session, 0));
    result.struct_size = sizeof result;
    status = sllm_generate(session, tokenizer, NULL, "The", 3, options, &result);
    return status == SLLM_STATUS_OK && result.stop == SLLM_STOP_CALLBACK ? SLLM_STATUS_CANCELLED : status;
}

static int32_t stop_at_once(void *user, const sllm_token *token) {
    (void)user;
    return token->index == 0;
}

static void in_order(void *user, uint32_t tasks, sllm_task_fn task, void *data) {
    uint32_t i;
    (void)user;
    for (i = 0; i < tasks; i++) task(data, i);
}

/* Several threads are refused unless a parallel_for runs them. */
static void parallel_for_is_taken(void) {
    const struct layout *layout = &sllm_session_options_layout;
    sllm_session_options options;
    size_t size;
    OK(sllm_session_options_defaults(&options, sizeof options));
    options.threads = 2;
    options.parallel_for = in_order;
    for (size = END(sllm_session_options, threads); size <= sizeof options; size++)
        AT(size, pass_part(pass_session, (unsigned char *)&options, size)
                     == (size >= END(sllm_session_options, parallel_for) ? SLLM_STATUS_OK : SLLM_STATUS_INVALID_ARGUMENT));
}

static void session_options(void) {
    sllm_session_options good;
    OK(sllm_session_options_defaults(&good, sizeof good));
    defaulted(&sllm_session_options_layout, session_defaults);
    refused(&sllm_session_options_layout, pass_session, &good);
#define REFUSED(field, bad) TAKEN(sllm_session_options, good, pass_session, field, bad, SLLM_STATUS_INVALID_ARGUMENT)
    REFUSED(context, UINT32_MAX);
    REFUSED(kv_format, 3);
    REFUSED(dense_only, 2);
    REFUSED(threads, 2);
    REFUSED(cores, 2);
    REFUSED(memory_budget, 1);
    REFUSED(exact, 2);
    REFUSED(reserved, 1);
#undef REFUSED
    parallel_for_is_taken();
}

static void dials(void) {
    sllm_dial good;
    OK(sllm_dial_defaults(&good, sizeof good));
    good.policy = SLLM_POLICY_PROMPT;
    good.density = 0.5f;
    defaulted(&sllm_dial_layout, dial_defaults);
    refused(&sllm_dial_layout, pass_dial, &good);
#define REFUSED(field, bad) TAKEN(sllm_dial, good, pass_dial, field, bad, SLLM_STATUS_INVALID_ARGUMENT)
    REFUSED(policy, 1);
    REFUSED(density, 0);
    REFUSED(allocation, 3);
    REFUSED(reserved, 1);
    REFUSED(output_window, -1);
    REFUSED(reserved2, 1);
#undef REFUSED
}

static void sampler_options(void) {
    sllm_sampler_options good;
    OK(sllm_sampler_options_defaults(&good, sizeof good));
    defaulted(&sllm_sampler_options_layout, sampler_defaults);
    refused(&sllm_sampler_options_layout, pass_sampler, &good);
#define REFUSED(field, bad) TAKEN(sllm_sampler_options, good, pass_sampler, field, bad, SLLM_STATUS_INVALID_ARGUMENT)
    REFUSED(temperature, -1);
    REFUSED(top_p, 2);
    REFUSED(min_p, 1);
    REFUSED(repetition_penalty, 0);
    REFUSED(presence_penalty, HUGE_VALF);
    REFUSED(frequency_penalty, HUGE_VALF);
#undef REFUSED
}

static void load_options(void) {
    sllm_load_options good;
    OK(sllm_load_options_defaults(&good, sizeof good));
    defaulted(&sllm_load_options_layout, load_defaults);
    refused(&sllm_load_options_layout, pass_load, &good);
    TAKEN(sllm_load_options, good, pass_load, preload, 2, SLLM_STATUS_INVALID_ARGUMENT);
    TAKEN(sllm_load_options, good, pass_load, verify, 2, SLLM_STATUS_INVALID_ARGUMENT);
    TAKEN(sllm_load_options, good, pass_load, in_memory, 2, SLLM_STATUS_INVALID_ARGUMENT);
    TAKEN(sllm_load_options, good, pass_load, progress, cancel_loading, SLLM_STATUS_CANCELLED);
}

static void generate_options(void) {
    sllm_generate_options good;
    OK(sllm_generate_options_defaults(&good, sizeof good));
    good.max_tokens = 2;
    defaulted(&sllm_generate_options_layout, generate_defaults);
    refused(&sllm_generate_options_layout, pass_generate, &good);
    TAKEN(sllm_generate_options, good, pass_generate, on_token, stop_at_once, SLLM_STATUS_CANCELLED);
    TAKEN(sllm_generate_options, good, pass_generate, control_tokens, 2, SLLM_STATUS_INVALID_ARGUMENT);
    TAKEN(sllm_generate_options, good, pass_generate, logprobs, 65, SLLM_STATUS_INVALID_ARGUMENT);
    TAKEN(sllm_generate_options, good, pass_generate, dry_multiplier, -1, SLLM_STATUS_INVALID_ARGUMENT);
    TAKEN(sllm_generate_options, good, pass_generate, dry_base, 0.5f, SLLM_STATUS_INVALID_ARGUMENT);
    TAKEN(sllm_generate_options, good, pass_generate, stop_count, 1, SLLM_STATUS_INVALID_ARGUMENT);
    TAKEN(sllm_generate_options, good, pass_generate, bias_count, 1, SLLM_STATUS_INVALID_ARGUMENT);
}

void test_structs(void) {
    static const uint32_t prompt[] = {5, 9, 14};
    session = short_session(32, 1);
    OK(sllm_tokenizer_new(model, &tokenizer));
    decode_greedily(session, prompt, 3, NULL, 2);
    filled(&sllm_model_info_layout, fill_info, ROOM, ROOM);
    filled(&sllm_memory_layout, fill_memory, ROOM, ROOM);
    filled(&sllm_dial_layout, fill_dial, ROOM, ROOM);
    filled(&sllm_threads_layout, fill_threads, ROOM, ROOM);
    filled(&sllm_stats_layout, fill_stats, offsetof(sllm_stats, peak_memory_bytes), END(sllm_stats, peak_memory_bytes));
    filled(&sllm_generation_layout, fill_generation, offsetof(sllm_generation, first_token_seconds), ROOM);
    session_options();
    dials();
    sampler_options();
    load_options();
    generate_options();
    OK(sllm_tokenizer_free(&tokenizer));
    OK(sllm_session_free(&session));
}
