/* What runs before main on a Cortex-M board, and how it talks to the debugger: semihosting, by numbers of ARM's document. */
#include <stdint.h>
#include <string.h>

extern uint8_t data_first[], data_last[], data_held[], bss_first[], bss_last[], stack_top[];
int main(void);

static int32_t ask(int32_t operation, const void *given)
{
    register int32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = given;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

/* Reads or writes all of some bytes of a file; gives how many it could not. */
static int32_t transfer(int32_t operation, int32_t file, void *bytes, int32_t count)
{
    const uintptr_t words[3] = {(uintptr_t)file, (uintptr_t)bytes, (uintptr_t)count};
    return ask(operation, words);
}

int32_t board_open(const char *name, int32_t mode)
{
    const uintptr_t words[3] = {(uintptr_t)name, (uintptr_t)mode, strlen(name)};
    return ask(1, words);
}

int32_t board_write(int32_t file, const void *bytes, int32_t count)
{
    return transfer(5, file, (void *)(uintptr_t)bytes, count);
}

int32_t board_read(int32_t file, void *bytes, int32_t count)
{
    return transfer(6, file, bytes, count);
}

static void stop(void)
{
    ask(0x18, (const void *)0x20026);
    for (;;)
        ;
}

void start(void)
{
    memcpy(data_first, data_held, (size_t)(data_last - data_first));
    memset(bss_first, 0, (size_t)(bss_last - bss_first));
    main();
    stop();
}

struct vectors {
    const void *stack;
    void (*handlers[15])(void);
};

__attribute__((section(".vectors"), used)) static const struct vectors vectors = {
    stack_top, {start, stop, stop, stop, stop, stop},
};
