/* Each allocation of each call fails, first alone and then with all later ones: each call ends with a status, and the
 * next one works when there is memory again. For Linux with glibc, which itself ends the process when it has no memory for
 * the data of a thread: so the calling thread has made its calls once before, and there are no other threads.
 *   oom MODEL.sllm (with a tokenizer and a chat template) */
#define _GNU_SOURCE
#include <shadowllm.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static const char *path;
static sllm_model *model, *opened;
static sllm_tokenizer *tokenizer, *made;
static sllm_session *session, *other;
static sllm_chat *chat, *begun;
static sllm_sampler *sampler;
static sllm_generate_options few;
static sllm_session_options alone;
static char text[4096];
static uint32_t ids[64];
static size_t count;

static int32_t open_model(void) { return sllm_model_open(path, NULL, &opened); }
static int32_t open_nothing(void) {
    int32_t status = sllm_model_open("/nowhere/model.sllm", NULL, &opened);
    return status == SLLM_STATUS_IO ? SLLM_STATUS_OK : status;
}
static int32_t new_tokenizer(void) { return sllm_tokenizer_new(model, &made); }
static int32_t new_session(void) { return sllm_session_new(model, &alone, &other); }
static int32_t new_chat(void) { return sllm_chat_new(tokenizer, &begun); }
static int32_t new_sampler(void) { return sllm_sampler_new(NULL, &sampler); }
static int32_t add(void) { return sllm_chat_add(chat, "user", "What do cows eat?"); }
static int32_t render(void) { return sllm_chat_render(chat, text, sizeof text, &count); }
static int32_t answer(void) { return sllm_chat_generate(chat, session, NULL, &few, NULL); }
static int32_t generate(void) { return sllm_generate(session, tokenizer, NULL, "A dog", 5, &few, NULL); }
static int32_t tokenize(void) { return sllm_tokenizer_tokenize(tokenizer, "A dog and a cat", 15, 1, ids, 64, &count); }
static int32_t detokenize(void) { return sllm_tokenizer_detokenize(tokenizer, ids, 4, text, sizeof text, &count); }
static int32_t decode(void) { return sllm_session_decode(session, 5); }
static int32_t fork_session(void) { return sllm_session_fork(session, &other); }
static int32_t stats(void) {
    sllm_stats all;
    all.struct_size = sizeof all;
    return sllm_session_get_stats(session, &all);
}

static const struct {
    const char *name;
    int32_t (*call)(void);
} calls[] = {{"model_open", open_model}, {"model_open of nothing", open_nothing}, {"tokenizer_new", new_tokenizer},
             {"session_new", new_session}, {"chat_new", new_chat}, {"sampler_new", new_sampler}, {"chat_add", add},
             {"chat_render", render}, {"chat_generate", answer}, {"generate", generate}, {"tokenize", tokenize},
             {"detokenize", detokenize}, {"decode", decode}, {"fork", fork_session}, {"get_stats", stats}};

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

int main(int argc, char **argv) {
    size_t i;
    int after, failed = 0;
    if (argc != 2) return 2;
    path = argv[1];
    sllm_generate_options_defaults(&few, sizeof few);
    few.max_tokens = 4;
    sllm_session_options_defaults(&alone, sizeof alone);
    alone.threads = 1;
    if (sllm_model_open(path, NULL, &model) || sllm_tokenizer_new(model, &tokenizer)
        || sllm_session_new(model, &alone, &session) || sllm_chat_new(tokenizer, &chat) || add() || tokenize() || answer()
        || render() || generate() || decode())
        return fprintf(stderr, "%s\n", sllm_last_error_message()), 2;
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
    return failed != 0;
}
