/* suite MODEL CHAT_MODEL STORY_MODEL [LARGE_MODEL]: tests all that the header promises. */
#include "suite.h"

#include <time.h>
#include <unistd.h>

_Atomic int failures;
const char *model_path, *chat_path, *story_path;
sllm_model *model;
unsigned char *image;
size_t image_size;
sllm_model_info info;

double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

size_t resident(void) {
    char line[128];
    size_t kilobytes = 0;
    FILE *status = fopen("/proc/self/status", "r");
    /* Anonymous memory only: the number of a file's pages in memory depends on the system's cache. */
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "RssAnon: %zu", &kilobytes) == 1) break;
    if (status) fclose(status);
    return kilobytes * 1024;
}

sllm_session *short_session(uint32_t context, uint32_t threads) {
    sllm_session_options options;
    sllm_session *session = NULL;
    OK(sllm_session_options_defaults(&options, sizeof options));
    options.context = context;
    options.threads = threads;
    OK(sllm_session_new(model, &options, &session));
    return session;
}

uint32_t decode_greedily(sllm_session *session, const uint32_t *prompt, size_t count, uint32_t *out, size_t n) {
    uint32_t token = 0;
    size_t i;
    OK(sllm_session_prefill(session, prompt, count));
    for (i = 0; i < n; i++) {
        OK(sllm_session_sample(session, NULL, &token));
        if (out) out[i] = token;
        OK(sllm_session_decode(session, token));
    }
    return token;
}

static void read_image(void) {
    FILE *f = fopen(model_path, "rb");
    long size;
    if (!f || fseek(f, 0, SEEK_END) || (size = ftell(f)) <= 0 || fseek(f, 0, SEEK_SET)) exit(2);
    image_size = (size_t)size;
    image = aligned_alloc(64, (image_size + 63) / 64 * 64);
    if (!image || fread(image, 1, image_size, f) != image_size) exit(2);
    fclose(f);
}

#define RUN(test)                                                                                                      \
    do {                                                                                                               \
        int before_ = failures;                                                                                        \
        test;                                                                                                          \
        printf("%-28s %s\n", #test, failures == before_ ? "ok" : "FAILED");                                            \
    } while (0)

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: suite MODEL CHAT_MODEL STORY_MODEL [LARGE_MODEL]\n");
        return 2;
    }
    if (sllm_version() / 1000 != SLLM_VERSION / 1000) {
        fprintf(stderr, "header and library differ\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    model_path = argv[1];
    chat_path = argv[2];
    story_path = argv[3];
    read_image();
    CHECK(sllm_last_error_message()[0] == 0);
    OK(sllm_model_open(model_path, NULL, &model));
    info.struct_size = sizeof info;
    OK(sllm_model_get_info(model, &info));
    if (failures) return 1;
    RUN(test_models());
    RUN(test_structs());
    RUN(test_sessions());
    RUN(test_sparsity());
    RUN(test_options());
    RUN(test_states());
    RUN(test_text());
    RUN(test_chat());
    RUN(test_nulls());
    RUN(test_memory());
    RUN(test_threads());
    RUN(test_cycles());
#ifdef TEST_PANIC
    RUN(test_panics());
#endif
    if (argc > 4) RUN(test_cancel(argv[4]));
    OK(sllm_model_free(&model));
    free(image);
    printf(failures ? "%d checks failed\n" : "all passed\n", failures);
    return failures != 0;
}
