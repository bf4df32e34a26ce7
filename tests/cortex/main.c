/* Runs a network on each input of the file "inputs" and writes the file "outputs". */
#include "network.h"

#include <stdint.h>

int32_t board_open(const char *name, int32_t mode);
int32_t board_read(int32_t file, void *bytes, int32_t count);
int32_t board_write(int32_t file, const void *bytes, int32_t count);

int main(void)
{
    static float input[NET_INPUTS], output[NET_OUTPUTS];
    const int32_t inputs = board_open("inputs", 1), outputs = board_open("outputs", 5);
    while (board_read(inputs, input, sizeof input) == 0) {
        net_run(input, output);
        if (board_write(outputs, output, sizeof output) != 0)
            return 1;
    }
    return 0;
}
