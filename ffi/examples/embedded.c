/* embedded IMAGE: runs a model without malloc, as on a board without an operating system.
 *
 * All memory is in arrays of a fixed size; the image is mapped, as a board would have it in flash. To prove that nothing
 * is allocated, malloc, calloc, realloc and free end the program once main has begun. Prints the token ids that follow
 * a prompt.
 */
#define _POSIX_C_SOURCE 200809L
#ifndef SLLM_EMBEDDED
#define SLLM_EMBEDDED
#endif
#include <shadowllm.h>

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int armed;

static void refuse(void) {
    static const char message[] = "something allocates\n";
    if (!armed) return;
    if (write(2, message, sizeof message - 1) < 0) _exit(3);
    _exit(3);
}

/* Allocations before main come from a small array and are never freed. */
static unsigned char before_main[1 << 18];
static size_t before_main_used;

void *malloc(size_t size) {
    void *found = before_main + before_main_used;
    refuse();
    size = (size + 63) / 64 * 64;
    if (size > sizeof before_main - before_main_used) return NULL;
    before_main_used += size;
    return found;
}
void *calloc(size_t count, size_t size) { return malloc(count * size); } /* the array is zero */
void *realloc(void *old, size_t size) {
    void *new = malloc(size);
    if (old && new) memmove(new, old, size < (size_t)(before_main + sizeof before_main - (unsigned char *)old) ? size : 0);
    return new;
}
void *aligned_alloc(size_t alignment, size_t size) { return alignment <= 64 ? malloc(size) : NULL; }
int posix_memalign(void **out, size_t alignment, size_t size) {
    *out = alignment <= 64 ? malloc(size) : NULL;
    return *out == NULL;
}
void free(void *old) { (void)old; }

/* The model's handle, the session (as large as sllm_session_size says for this model and context) and the sampler. */
static unsigned char model_memory[4096], session_memory[4 << 20], sampler_memory[1024];

static void print_number(uint32_t number) {
    char text[12], *at = text + sizeof text;
    *--at = ' ';
    do *--at = (char)('0' + number % 10);
    while ((number /= 10) != 0);
    if (write(1, at, (size_t)(text + sizeof text - at)) < 0) _exit(1);
}

static int failed(int32_t status) {
    const char *message = sllm_status_message(status);
    if (write(2, message, strlen(message)) < 0 || write(2, "\n", 1) < 0) return 2;
    return 1;
}

int main(int argc, char **argv) {
    /* A beginning token and "Once upon a time, there was", in the vocabulary of host/models/story.sllm. */
    static const uint32_t prompt[] = {1, 703, 757, 260, 482, 13, 397, 283};
    sllm_model *model = NULL;
    sllm_session *session = NULL;
    sllm_sampler *sampler = NULL;
    sllm_session_options options;
    struct stat about;
    const void *image;
    uint32_t token;
    int32_t status, end = 0;
    int fd, i;

    armed = 1;
    if (argc != 2 || (fd = open(argv[1], O_RDONLY)) < 0 || fstat(fd, &about) != 0) return 2;
    image = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (image == MAP_FAILED) return 2;
    sllm_session_options_defaults(&options, sizeof options);
    options.context = 64;
    options.batch = 8;
    options.dense_only = 1;
    if ((status = sllm_model_init(model_memory, sizeof model_memory, image, (size_t)about.st_size, &model))
        || (status = sllm_session_init(model, &options, session_memory, sizeof session_memory, &session))
        || (status = sllm_sampler_init(sampler_memory, sizeof sampler_memory, NULL, &sampler))
        || (status = sllm_session_prefill(session, prompt, sizeof prompt / sizeof *prompt)))
        return failed(status);
    for (i = 0; i < 32; i++) {
        if ((status = sllm_session_sample(session, sampler, &token))) return failed(status);
        if ((status = sllm_model_is_end(model, token, &end))) return failed(status);
        if (end) break;
        print_number(token);
        sllm_sampler_accept(sampler, token);
        if ((status = sllm_session_decode(session, token))) return failed(status);
    }
    if (write(1, "\n", 1) < 0) return 2;
    sllm_sampler_free(&sampler);
    sllm_session_free(&session);
    sllm_model_free(&model);
    return 0;
}
