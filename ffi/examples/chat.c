/* chat MODEL [-s SYSTEM] [-d DENSITY] [--seed N] [-n TOKENS]: a conversation in the terminal.
 *
 * During an answer the last line of the terminal shows tokens per second and the share of the weights that is read.
 * Ctrl-C ends an answer, Ctrl-D the conversation. /density 0.8 and /dense set the dial, /new begins a new one.
 */
#define _POSIX_C_SOURCE 200809L
#include <shadowllm.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static sllm_model *model;
static sllm_tokenizer *tokenizer;
static sllm_session *session;
static sllm_sampler *sampler;
static sllm_chat *chat;
static int rows; /* of the terminal; 0 without one */

static void on_interrupt(int number) {
    (void)number;
    sllm_session_cancel(session);
}

/* Reserves the last line of the terminal for the figures, or frees it. */
static void reserve_line(int reserve) {
    struct winsize size;
    if (!isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_row < 3) {
        rows = 0;
        return;
    }
    rows = size.ws_row;
    if (reserve)
        printf("\n\0337\033[1;%dr\0338\033[1A", rows - 1);
    else
        printf("\0337\033[%d;1H\033[2K\033[r\0338", rows);
    fflush(stdout);
}

static int32_t show(void *user, const sllm_token *token) {
    (void)user;
    fwrite(token->text, 1, token->text_length, stdout);
    if (rows)
        printf("\0337\033[%d;1H\033[2K\033[7m %llu tokens   %.1f tokens/s   %.0f %% read \033[0m\0338", rows,
               (unsigned long long)token->index + 1, token->tokens_per_second, 100 * token->density);
    fflush(stdout);
    return 0;
}

static int32_t set_density(double density) {
    sllm_dial dial;
    if (density >= 1) return sllm_session_set_sparsity(session, SLLM_SPARSITY_OFF);
    sllm_dial_defaults(&dial, sizeof dial);
    dial.policy = SLLM_POLICY_AUTO;
    dial.density = (float)density;
    return sllm_session_set_dial(session, &dial);
}

static void complain(void) {
    fprintf(stderr, "%s\n", sllm_last_error_message());
}

static void answer(const char *line, uint32_t max_tokens) {
    sllm_generate_options options;
    sllm_generation result;
    sllm_stats stats;
    int32_t status;
    result.struct_size = sizeof result;
    stats.struct_size = sizeof stats;
    sllm_generate_options_defaults(&options, sizeof options);
    options.max_tokens = max_tokens;
    options.on_token = show;
    sllm_session_reset_cancel(session);
    sllm_session_reset_stats(session);
    if (sllm_chat_add(chat, "user", line) != SLLM_STATUS_OK) {
        complain();
        return;
    }
    reserve_line(1);
    status = sllm_chat_generate(chat, session, sampler, &options, &result);
    reserve_line(0);
    printf("\n");
    if (status == SLLM_STATUS_CONTEXT_FULL || (status == SLLM_STATUS_OK && result.stop == SLLM_STOP_CONTEXT_FULL)) {
        printf("[the context is full: a new conversation begins]\n");
        sllm_chat_clear(chat);
    } else if (status == SLLM_STATUS_OK) {
        sllm_session_get_stats(session, &stats);
        printf("[%llu tokens read, %llu written at %.1f tokens/s, %.0f %% of the skippable weights read, first token "
               "after %.2f s]\n",
               (unsigned long long)result.prompt_tokens, (unsigned long long)result.generated_tokens,
               result.decode_tokens_per_second, 100 * stats.density, result.first_token_seconds);
    } else {
        complain();
    }
}

static int usage(void) {
    fprintf(stderr, "usage: chat MODEL.sllm [-s SYSTEM] [-d DENSITY] [--seed N] [-n TOKENS]\n");
    return 2;
}

int main(int argc, char **argv) {
    sllm_sampler_options options;
    struct sigaction action;
    const char *system_text = NULL;
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    double density = 1;
    uint32_t max_tokens = 512;
    int32_t status;
    int i;

    if (sllm_version() / 1000 != SLLM_VERSION / 1000) {
        fprintf(stderr, "library and header differ: rebuild this program\n");
        return 2;
    }
    if (argc < 2 || argv[1][0] == '-') return usage();
    sllm_sampler_options_defaults(&options, sizeof options);
    for (i = 2; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "-s") == 0)
            system_text = argv[i + 1];
        else if (strcmp(argv[i], "-d") == 0)
            density = atof(argv[i + 1]);
        else if (strcmp(argv[i], "--seed") == 0)
            options.seed = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "-n") == 0)
            max_tokens = (uint32_t)strtoul(argv[i + 1], NULL, 10);
        else
            return usage();
    }
    if (i < argc) return usage();
    if ((status = sllm_model_open(argv[1], NULL, &model)) == SLLM_STATUS_OK
        && (status = sllm_tokenizer_new(model, &tokenizer)) == SLLM_STATUS_OK
        && (status = sllm_session_new(model, NULL, &session)) == SLLM_STATUS_OK
        && (status = sllm_sampler_new(&options, &sampler)) == SLLM_STATUS_OK
        && (status = sllm_chat_new(tokenizer, &chat)) == SLLM_STATUS_OK
        && (status = set_density(density)) == SLLM_STATUS_OK && system_text)
        status = sllm_chat_add(chat, "system", system_text);
    if (status == SLLM_STATUS_OK) {
        memset(&action, 0, sizeof action);
        action.sa_handler = on_interrupt;
        action.sa_flags = SA_RESTART;
        sigaction(SIGINT, &action, NULL);
        for (;;) {
            if (isatty(STDIN_FILENO)) printf("> ");
            fflush(stdout);
            if ((length = getline(&line, &room, stdin)) < 0) break;
            if (length > 0 && line[length - 1] == '\n') line[--length] = 0;
            if (strncmp(line, "/density ", 9) == 0) {
                if (set_density(atof(line + 9)) != SLLM_STATUS_OK) complain();
            } else if (strcmp(line, "/dense") == 0) {
                set_density(1);
            } else if (strcmp(line, "/new") == 0) {
                sllm_chat_clear(chat);
                if (system_text) sllm_chat_add(chat, "system", system_text);
            } else if (length > 0) {
                answer(line, max_tokens);
            }
        }
        signal(SIGINT, SIG_DFL);
    } else {
        complain();
    }
    free(line);
    sllm_chat_free(&chat);
    sllm_sampler_free(&sampler);
    sllm_session_free(&session);
    sllm_tokenizer_free(&tokenizer);
    sllm_model_free(&model);
    return status == SLLM_STATUS_OK ? 0 : 1;
}
