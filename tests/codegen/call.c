/* call FILE OFFSET I: maps the linked code in FILE and calls the function at OFFSET; prints its eight results. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

int main(int argc, char **argv) {
    struct stat info;
    if (argc != 4) return 2;
    int fd = open(argv[1], O_RDONLY);
    if (fd < 0 || fstat(fd, &info)) return 2;
    char *code = mmap(NULL, (size_t)info.st_size, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    if (code == MAP_FAILED) return 2;
    float out[8];
    ((void (*)(float *, int))(void *)(code + atol(argv[2])))(out, atoi(argv[3]));
    for (int i = 0; i < 8; i++)
        printf("%.9g ", (double)out[i]);
    return 0;
}
