/* mossnet-run: libmossnet as a program, for whoever is at the other end of a pipe, of ssh or of adb. */
#include "mossnet.h"
#include "serve.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char HELP[] =
    "usage: mossnet-run --serve | --version | --help\n"
    "\n"
    "Runs compiled MossNet models for mossnet-tg on another machine, which asks for what it\n"
    "wants on stdin and reads the answers on stdout: mossnet-tg generate --device ssh:HOST.\n"
    "\n"
    "  --serve    answer requests until stdin ends; files that are sent come into this folder\n"
    "  --version  show the version\n"
    "  --help     show this\n"
    "\n"
    "Exit codes: 0 done, 1 failed, 2 wrong usage or no request, 75 a request hung, 76 the other\n"
    "end went away while one ran.\n";

static int serve(void) {
    /* Drivers that print must not get between the answers. */
    int out = dup(STDOUT_FILENO);
    if (out < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
        fprintf(stderr, "mossnet-run: stdout or stderr is closed\n");
        return 1;
    }
    /* The end of the stream says that it is over; these would not let it clean up. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    return mn_serve(STDIN_FILENO, out);
}

int main(int argc, char **argv) {
    const char *option = argc == 2 ? argv[1] : "";
    if (!strcmp(option, "--serve")) return serve();
    if (!strcmp(option, "--version")) return printf("mossnet-run %s\n", mossnet_version()) < 0;
    if (!strcmp(option, "--help")) return fputs(HELP, stdout) < 0;
    fputs(HELP, stderr);
    return 2;
}
