/* Runs a network on each input of the file "inputs" and writes to the file "counts" what SysTick counted meanwhile. */
#include "network.h"

#include <stdint.h>

int32_t board_open(const char *name, int32_t mode);
int32_t board_read(int32_t file, void *bytes, int32_t count);
int32_t board_write(int32_t file, const void *bytes, int32_t count);

int main(void)
{
    static float input[NET_INPUTS], output[NET_OUTPUTS];
    volatile uint32_t *const timer = (volatile uint32_t *)0xE000E010; /* control, reload, current: it counts down */
    const int32_t inputs = board_open("inputs", 1), counts = board_open("counts", 5);
    timer[1] = 0xFFFFFF;
    timer[2] = 0;
    timer[0] = 5; /* on, by the core's clock */
    while (board_read(inputs, input, sizeof input) == 0) {
        const uint32_t before = timer[2];
        net_run(input, output);
        const uint32_t ticks = (before - timer[2]) & 0xFFFFFF;
        if (board_write(counts, &ticks, sizeof ticks) != 0)
            return 1;
    }
    return 0;
}
