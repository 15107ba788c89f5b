// Vectors and reset of a Cortex-M4F: RAM as C expects it, the FPU on, then main.

#include <stdint.h>

#include "semihosting.h"

extern uint32_t data_load[], data_start[], data_end[], bss_start[], bss_end[], stack_top[];

int main(void);
void reset(void);

#define CPACR (*(volatile uint32_t *)0xe000ed88)

// No floats before the FPU is on: the work is in a function of its own.
__attribute__((noinline)) static void run(void) {
    leave((uint32_t)main());
}

void reset(void) {
    for (uint32_t *to = data_start, *from = data_load; to < data_end;)
        *to++ = *from++;
    for (uint32_t *to = bss_start; to < bss_end;)
        *to++ = 0;
    CPACR |= 0xf << 20;
    __asm__ volatile("dsb\nisb" ::: "memory");
    run();
}

static void fault(void) {
    print("fault\n");
    leave(2);
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))stack_top,
    reset,
    fault, // NMI
    fault, // HardFault
    fault, // MemManage
    fault, // BusFault
    fault, // UsageFault
};
