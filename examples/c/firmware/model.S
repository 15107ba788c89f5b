@ The model file in flash, at a multiple of 64 bytes.
    .section .model, "a"
    .balign 64
    .global model_start, model_end
model_start:
    .incbin MODEL
model_end:
