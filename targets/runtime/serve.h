/* The runner's loop: a request comes, is answered, until BYE or the end of the stream. */
#ifndef MN_SERVE_H
#define MN_SERVE_H

/* The process's exit code: 0 after BYE or the end of the stream, else 2: what came was no request. */
int mn_serve(int in, int out);

#endif
