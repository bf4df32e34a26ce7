/* Reads what valgrind's lackey traces, and counts the bytes that each step of a network loads from and stores to some
   regions of memory.

   The file that is given has lines "step ADDRESS", the entry of each function, and "region STEP BEGIN END", addresses in
   hexadecimal digits. For each region, in order, the bytes loaded and stored are written, then for the whole program the
   instructions. */
#include <stdio.h>
#include <stdlib.h>

enum { STEPS = 4096, REGIONS = 16384 };

static unsigned long entries[STEPS];
static struct { unsigned long step, begin, end, loaded, stored; } regions[REGIONS];

int main(int count, char **arguments)
{
    unsigned long steps = 0, all = 0, least = ~0ul, most = 0, current = ~0ul, first = 0, last = 0, instructions = 0, i;
    char line[256];
    FILE *const file = count == 2 ? fopen(arguments[1], "r") : NULL;
    if (file == NULL)
        return 2;
    while (fgets(line, sizeof line, file) != NULL) {
        if (steps < STEPS && sscanf(line, "step %lx", &entries[steps]) == 1) {
            least = entries[steps] < least ? entries[steps] : least;
            most = entries[steps] > most ? entries[steps] : most;
            steps++;
        } else if (all < REGIONS &&
                   sscanf(line, "region %lu %lx %lx", &regions[all].step, &regions[all].begin, &regions[all].end) == 3) {
            all++;
        } else {
            return 2;
        }
    }
    while (fgets(line, sizeof line, stdin) != NULL) {
        char *end;
        unsigned long address, size;
        if ((line[0] != 'I' && line[0] != ' ') || line[2] != ' ')
            continue;
        address = strtoul(line + 3, &end, 16);
        size = *end == ',' ? strtoul(end + 1, NULL, 10) : 0;
        if (line[0] == 'I') {
            instructions++;
            if (address < least || address > most)
                continue;
            for (i = 0; i < steps && entries[i] != address; i++) {
            }
            if (i == steps)
                continue;
            current = i;
            for (first = 0; first < all && regions[first].step != current; first++) {
            }
            for (last = first; last < all && regions[last].step == current; last++) {
            }
            continue;
        }
        for (i = first; i < last; i++) {
            if (address >= regions[i].begin && address < regions[i].end) {
                regions[i].loaded += line[1] != 'S' ? size : 0;
                regions[i].stored += line[1] != 'L' ? size : 0;
            }
        }
    }
    for (i = 0; i < all; i++)
        printf("%lu %lu\n", regions[i].loaded, regions[i].stored);
    printf("%lu\n", instructions);
    return 0;
}
