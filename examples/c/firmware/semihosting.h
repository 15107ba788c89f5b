// The debugger's console (Arm semihosting); QEMU plays the debugger.

#ifndef SEMIHOSTING_H
#define SEMIHOSTING_H

#include <stdint.h>

static inline uint32_t semihost(uint32_t operation, const void *argument) {
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static inline void print(const char *text) {
    semihost(0x04, text); // SYS_WRITE0
}

__attribute__((noreturn)) static inline void leave(uint32_t code) {
    const uint32_t why[2] = {0x20026, code}; // ADP_Stopped_ApplicationExit
    semihost(0x20, why);                     // SYS_EXIT_EXTENDED
    for (;;)
        ;
}

#endif
