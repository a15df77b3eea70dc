/* Each allocation of each call fails, first alone and then with all later ones: each call ends with a status, and the
 * next one works when there is memory again. So do threads. For Linux with glibc, which itself ends the process when it has no memory for
 * the data of a thread: so the calling thread has made its calls once before, and there are no other threads.
 *   oom MODEL.sllm (with a tokenizer and a chat template) */
#define _GNU_SOURCE
#include <shadowllm.h>

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

/* Which allocation fails, counted from 1; 0: none. */
static long fails_at, seen;
static int and_after;

static int failing(void) {
    long n;
    if (!fails_at) return 0;
    n = __atomic_add_fetch(&seen, 1, __ATOMIC_RELAXED);
    if (n != fails_at && !(and_after && n > fails_at)) return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t n) { return failing() ? NULL : __libc_malloc(n); }
void *calloc(size_t a, size_t b) { return failing() ? NULL : __libc_calloc(a, b); }
void *realloc(void *p, size_t n) { return failing() ? NULL : __libc_realloc(p, n); }
void *aligned_alloc(size_t a, size_t n) { return failing() ? NULL : __libc_memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n) {
    if (failing()) return ENOMEM;
    *p = __libc_memalign(a, n);
    return *p ? 0 : ENOMEM;
}

/* Threads that the system still gives; -1: all that are wanted. */
static int threads_left = -1;

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *data) {
    int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    *(void **)&create = dlsym(RTLD_NEXT, "pthread_create");
    if (threads_left == 0) return EAGAIN;
    if (threads_left > 0) threads_left--;
    return create(thread, attributes, start, data);
}

static const char *path;
static sllm_model *model, *opened;
static sllm_tokenizer *tokenizer, *made;
static sllm_session *session, *other;
static sllm_chat *chat, *begun;
static sllm_sampler *sampler, *another;
static sllm_grammar *grammar, *written;
static sllm_generate_options few;
static const char schema[] = "{\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\", \"maxLength\": 8}}}";
static const char calling[] = "Yes.<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2, 3]}}</tool_call>";
static sllm_session_options alone;
static sllm_dial dial;
static char text[4096];
static uint8_t bytes[64];
static uint32_t ids[64], id;
static size_t count, size;
static const float *logits;
static const uint32_t *tokens;
static const char *json, *said;
static int32_t yes;
static struct { sllm_model_info info; sllm_memory memory; sllm_stats stats; sllm_threads threads; sllm_dial dial; } got;
static sllm_load_options loading;
/* Of the session's state, the image, and objects that are made in memory of the caller's. */
static void *state, *image, *room[3];
static size_t state_size, image_size, room_size[3];

static void on_logits(void *user, size_t index, const float *row, size_t vocabulary) {
    (void)user, (void)index, (void)row, (void)vocabulary;
}
static void on_log(void *user, int32_t level, const char *message) { (void)user, (void)level, (void)message; }
static int32_t open_nothing(void) {
    int32_t status = sllm_model_open("/nowhere/model.sllm", NULL, &opened);
    return status == SLLM_STATUS_IO ? SLLM_STATUS_OK : status;
}
static int32_t open_fd(void) {
    FILE *file = fopen(path, "rb");
    int32_t status = file ? sllm_model_open_fd(fileno(file), 0, 0, NULL, &opened) : SLLM_STATUS_OUT_OF_MEMORY;
    if (file) fclose(file);
    return status;
}
static int32_t generate_by_grammar(void) {
    sllm_generate_options options = few;
    options.grammar = grammar;
    return sllm_generate(session, tokenizer, NULL, "A dog", 5, &options, NULL);
}
/* Those that only tell something. */
static int32_t told(void) {
    int there = sllm_version() && sllm_image_version() && sllm_status_name(3) && sllm_status_message(3) && sllm_model_size()
                && sllm_sampler_size() && sllm_sampler_state_size() && sllm_last_error_message();
    return there ? SLLM_STATUS_OK : SLLM_STATUS_INTERNAL;
}
#define WITH_SIZE(value) (value.struct_size = sizeof value, &value)

#define CALLS(CALL) \
    CALL(model_open, sllm_model_open(path, NULL, &opened)) \
    CALL(model_open_nothing, open_nothing()) \
    CALL(model_open_fd, open_fd()) \
    CALL(model_open_memory, sllm_model_open_memory(image, image_size, &loading, &opened)) \
    CALL(model_init, sllm_model_init(room[0], room_size[0], image, image_size, &opened)) \
    CALL(model_retain, sllm_model_retain(model)) \
    CALL(model_free, sllm_model_free(&opened)) \
    CALL(model_get_info, sllm_model_get_info(model, WITH_SIZE(got.info))) \
    CALL(model_end_tokens, sllm_model_end_tokens(model, &tokens, &count)) \
    CALL(model_metadata, sllm_model_metadata(model, &json, &count)) \
    CALL(model_is_end, sllm_model_is_end(model, 3, &yes)) \
    CALL(load_options_defaults, sllm_load_options_defaults(&loading, sizeof loading)) \
    CALL(session_options_defaults, sllm_session_options_defaults(&alone, sizeof alone)) \
    CALL(session_size, sllm_session_size(model, &alone, &size)) \
    CALL(estimate_memory, sllm_estimate_memory(model, &alone, WITH_SIZE(got.memory))) \
    CALL(session_new, sllm_session_new(model, &alone, &other)) \
    CALL(session_init, sllm_session_init(model, &alone, room[1], room_size[1], &other)) \
    CALL(session_fork, sllm_session_fork(session, &other)) \
    CALL(session_free, sllm_session_free(&other)) \
    CALL(session_prefill, sllm_session_prefill(session, ids, 4)) \
    CALL(session_prefill_each, sllm_session_prefill_each(session, ids, 4, on_logits, NULL)) \
    CALL(session_decode, sllm_session_decode(session, 5)) \
    CALL(session_logits, sllm_session_logits(session, &logits, &count)) \
    CALL(session_sample, sllm_session_sample(session, sampler, &id)) \
    CALL(session_context, sllm_session_context(session, &count)) \
    CALL(session_tokens, sllm_session_tokens(session, &tokens, &count)) \
    CALL(session_progress, sllm_session_progress(session, &count)) \
    CALL(session_position, sllm_session_position(session, &count)) \
    CALL(session_rewind, sllm_session_rewind(session, 2)) \
    CALL(session_cancel, sllm_session_cancel(session)) \
    CALL(session_reset_cancel, sllm_session_reset_cancel(session)) \
    CALL(session_state_size, sllm_session_state_size(session, &size)) \
    CALL(session_save, sllm_session_save(session, state, state_size, &size)) \
    CALL(session_load, sllm_session_load(session, state, state_size)) \
    CALL(session_set_sparsity, sllm_session_set_sparsity(session, SLLM_SPARSITY_MEDIUM)) \
    CALL(session_set_pace, sllm_session_set_pace(session, 0, -1, NULL)) \
    CALL(dial_defaults, sllm_dial_defaults(&dial, sizeof dial)) \
    CALL(session_set_dial, sllm_session_set_dial(session, &dial)) \
    CALL(session_get_dial, sllm_session_get_dial(session, WITH_SIZE(got.dial))) \
    CALL(session_get_stats, sllm_session_get_stats(session, WITH_SIZE(got.stats))) \
    CALL(session_reset_stats, sllm_session_reset_stats(session)) \
    CALL(session_get_threads, sllm_session_get_threads(session, WITH_SIZE(got.threads))) \
    CALL(sampler_options_defaults, sllm_sampler_options_defaults(&(sllm_sampler_options){0}, sizeof(sllm_sampler_options))) \
    CALL(sampler_new, sllm_sampler_new(NULL, &another)) \
    CALL(sampler_init, sllm_sampler_init(room[2], room_size[2], NULL, &another)) \
    CALL(sampler_save, sllm_sampler_save(sampler, text, sllm_sampler_state_size())) \
    CALL(sampler_load, sllm_sampler_load(sampler, text, sllm_sampler_state_size())) \
    CALL(sampler_accept, sllm_sampler_accept(sampler, 3)) \
    CALL(sampler_free, sllm_sampler_free(&another)) \
    CALL(set_log, sllm_set_log(on_log, NULL, 2)) \
    CALL(tokenizer_new, sllm_tokenizer_new(model, &made)) \
    CALL(tokenizer_free, sllm_tokenizer_free(&made)) \
    CALL(tokenizer_tokenize, sllm_tokenizer_tokenize(tokenizer, "A dog and a cat", 15, 1, ids, 64, &count)) \
    CALL(tokenizer_detokenize, sllm_tokenizer_detokenize(tokenizer, ids, 4, text, sizeof text, &count)) \
    CALL(tokenizer_token_text, sllm_tokenizer_token_text(tokenizer, 300, text, sizeof text, &count)) \
    CALL(tokenizer_token_bytes, sllm_tokenizer_token_bytes(tokenizer, 300, bytes, sizeof bytes, &count)) \
    CALL(generate_options_defaults, sllm_generate_options_defaults(&few, sizeof few)) \
    CALL(generate, sllm_generate(session, tokenizer, NULL, "A dog", 5, &few, NULL)) \
    CALL(grammar_new, sllm_grammar_new(tokenizer, SLLM_GRAMMAR_JSON_SCHEMA, schema, SLLM_NUL_TERMINATED, &written)) \
    CALL(generate_by_grammar, generate_by_grammar()) \
    CALL(grammar_free, sllm_grammar_free(&written)) \
    CALL(parse_tool_calls, sllm_parse_tool_calls(calling, strlen(calling), text, sizeof text, &count)) \
    CALL(chat_new, sllm_chat_new(tokenizer, &begun)) \
    CALL(chat_add_json, sllm_chat_add_json(chat, "{\"role\": \"user\", \"content\": \"What do cows eat?\", \"name\": \"Ann\"}")) \
    CALL(chat_set_variable, sllm_chat_set_variable(chat, "documents", "[{\"title\": \"Cows\", \"text\": \"Grass.\"}]")) \
    CALL(chat_add, sllm_chat_add(chat, "user", "What do cows eat?")) \
    CALL(chat_count, sllm_chat_count(chat, &count)) \
    CALL(chat_message, sllm_chat_message(chat, 0, &said, &size, &json, &count)) \
    CALL(chat_message_json, sllm_chat_message_json(chat, 0, &json, &count)) \
    CALL(chat_render, sllm_chat_render(chat, text, sizeof text, &count)) \
    CALL(chat_generate, sllm_chat_generate(chat, session, NULL, &few, NULL)) \
    CALL(chat_fork, sllm_chat_fork(chat, &begun)) \
    CALL(chat_free, sllm_chat_free(&begun)) \
    CALL(chat_truncate, sllm_chat_truncate(chat, 1)) \
    CALL(chat_clear, sllm_chat_clear(chat)) \
    CALL(those_that_tell, told())

#define DEFINE(name, expression) static int32_t call_##name(void) { return expression; }
CALLS(DEFINE)
#define ROW(name, expression) {#name, call_##name},
static const struct {
    const char *name;
    int32_t (*call)(void);
} calls[] = {CALLS(ROW)};

/* The image in memory, and room for objects of the caller's. */
static int prepare(void) {
    FILE *file = fopen(path, "rb");
    size_t i;
    if (!file || fseek(file, 0, SEEK_END)) return 0;
    image_size = (size_t)ftell(file);
    rewind(file);
    room_size[0] = sllm_model_size(), room_size[2] = sllm_sampler_size();
    if (sllm_session_size(model, &alone, &room_size[1])) return 0;
    for (i = 0; i < 3; i++)
        if (posix_memalign(&room[i], 64, room_size[i])) return 0;
    if (posix_memalign(&image, 64, image_size) || fread(image, 1, image_size, file) != image_size) return 0;
    fclose(file);
    if (sllm_session_state_size(session, &state_size) || !(state = malloc(state_size))) return 0;
    return sllm_session_save(session, state, state_size, &count) == SLLM_STATUS_OK
           && sllm_load_options_defaults(&loading, sizeof loading) == SLLM_STATUS_OK
           && sllm_dial_defaults(&dial, sizeof dial) == SLLM_STATUS_OK
           && sllm_sampler_save(sampler, text, sllm_sampler_state_size()) == SLLM_STATUS_OK;
}

/* Runs the call in a process of its own; `at` 0 counts its allocations. */
static long in_a_process(int32_t (*call)(void), long at, int after, int *ended) {
    int ends[2], status = 0;
    long result[2] = {-1, 0};
    pid_t child;
    if (pipe(ends)) exit(9);
    child = fork();
    if (child == 0) {
        alarm(20);
        if (!freopen("/dev/null", "w", stderr)) _exit(9);
        seen = 0, and_after = after;
        fails_at = at ? at : 1L << 40;
        result[0] = call();
        result[1] = seen;
        fails_at = 0;
        if (at) {
            /* Objects of the first call may still use the library's reserve. */
            int32_t again = call();
            if (again != SLLM_STATUS_OK && again != SLLM_STATUS_OUT_OF_MEMORY) result[0] = 100 + again;
        }
        if (write(ends[1], result, sizeof result) != sizeof result) _exit(9);
        _exit(0);
    }
    close(ends[1]);
    if (read(ends[0], result, sizeof result) < 0) exit(9);
    close(ends[0]);
    waitpid(child, &status, 0);
    *ended = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    return at ? result[0] : result[1];
}

/* The calls that take most memory, with `room` more bytes of addresses than there are now: a status each. Threads are others'
 * calls: the system ends a process that has no memory for one. */
static int within(size_t room) {
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit;
        unsigned long pages = 0;
        int32_t (*const most[])(void) = {call_model_open, call_model_open_memory, call_tokenizer_new, call_session_new,
                                         call_session_fork, call_chat_generate, call_generate, call_model_open_fd,
                                         call_grammar_new, call_generate_by_grammar};
        FILE *statm = fopen("/proc/self/statm", "r");
        size_t i;
        if (!statm || fscanf(statm, "%lu", &pages) != 1) _exit(9);
        fclose(statm);
        limit.rlim_cur = limit.rlim_max = pages * (unsigned long)sysconf(_SC_PAGESIZE) + room;
        if (setrlimit(RLIMIT_AS, &limit)) _exit(9);
        for (i = 0; i < sizeof most / sizeof *most; i++) {
            int32_t answer = most[i]();
            /* A file that cannot be mapped is SLLM_STATUS_IO. */
            if (answer != SLLM_STATUS_OK && answer != SLLM_STATUS_OUT_OF_MEMORY && answer != SLLM_STATUS_IO) _exit(1);
        }
        _exit(0);
    }
    waitpid(child, &status, 0);
    if (status) printf("%zu bytes more: wait status %d\n", room, status);
    return status == 0;
}

/* A session that wants more threads than there are: a status, and a session once there are enough. */
static int with_threads(int left, uint32_t threads, uint32_t budget) {
    sllm_session_options options;
    sllm_session *made_now = NULL;
    int32_t status, enough = left < 0 || left >= (int)threads - 1 + (budget > 0);
    sllm_session_options_defaults(&options, sizeof options);
    options.threads = threads;
    options.memory_budget = budget;
    threads_left = left;
    status = sllm_session_new(model, &options, &made_now);
    threads_left = -1;
    if (enough ? status != SLLM_STATUS_OK
               : status != SLLM_STATUS_OUT_OF_MEMORY || made_now || !strstr(sllm_last_error_message(), "thread")) {
        printf("%d of %u threads, budget %u: status %d, %s\n", left, threads, budget, status, sllm_last_error_message());
        return 0;
    }
    return !enough || (sllm_session_decode(made_now, 5) == SLLM_STATUS_OK && sllm_session_free(&made_now) == SLLM_STATUS_OK);
}

int main(int argc, char **argv) {
    size_t i;
    int after, failed = 0, left;
    if (argc != 2) return 2;
    path = argv[1];
    sllm_generate_options_defaults(&few, sizeof few);
    few.max_tokens = 4;
    sllm_session_options_defaults(&alone, sizeof alone);
    alone.threads = 1;
    if (sllm_model_open(path, NULL, &model) || sllm_tokenizer_new(model, &tokenizer)
        || sllm_session_new(model, &alone, &session) || sllm_chat_new(tokenizer, &chat) || sllm_sampler_new(NULL, &sampler)
        || call_chat_add() || call_tokenizer_tokenize() || call_chat_generate() || call_chat_render() || call_generate()
        || call_session_decode() || call_session_sample() || call_grammar_new() || !prepare())
        return fprintf(stderr, "%s\n", sllm_last_error_message()), 2;
    grammar = written;
    sllm_model_retain(model);
    opened = model; /* for model_free */
    for (i = 0; i < sizeof calls / sizeof *calls; i++) {
        int ended = 0;
        long all = in_a_process(calls[i].call, 0, 0, &ended), step = all / 40 + 1, at, ok = 0, refused = 0, bad = 0;
        for (after = 0; after < 2; after++)
            for (at = 1; at <= all; at += step) {
                long status = in_a_process(calls[i].call, at, after, &ended);
                if (ended || (status != SLLM_STATUS_OK && status != SLLM_STATUS_OUT_OF_MEMORY)) {
                    printf("%s, allocation %ld of %ld%s: status %ld, signal %d\n", calls[i].name, at, all,
                           after ? " and all after it" : "", status, ended);
                    bad++;
                } else if (status == SLLM_STATUS_OK) ok++;
                else refused++;
            }
        printf("%-22s %5ld allocations: %ld went on, %ld refused, %ld bad\n", calls[i].name, all, ok, refused, bad);
        failed += bad > 0;
    }
    for (i = 0; i < 64; i++) failed += !within(i << 18);
    for (left = -1; left < 4; left++) failed += !with_threads(left, 4, 0) + !with_threads(left, 1, 6) + !with_threads(left, 2, 6);
    return failed != 0;
}
