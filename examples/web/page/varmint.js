// varmint's C interface (capi/include/varmint.h) from JavaScript: a module without imports, and its memory laid out here, by the
// caller:
//
//   0 .. __heap_base     the module's stack and constants
//   scratch              structs on their way in and out
//   generator            varmint_generator_size() bytes
//   model                the file, at a multiple of 64
//   preview, arena       as the tier says; the memory grows for them before the run, never in it

export const WORKING = 0, SCALE = 1, ROWS = 2, DONE = 3; // varmint_event_kind
const NOT_GIVEN = 0xffffffff;
const TABLES = 4;
const UNKNOWN_TIER = 201, UNKNOWN_LABEL = 202;
const PAGE = 65536;

// The smallest module that uses SIMD: a browser without refuses it.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
export const hasSimd = WebAssembly.validate(new Uint8Array(SIMD));

const up = (n, align) => Math.ceil(n / align) * align;

/** The compiled module, with SIMD or without. */
export async function load(simd) {
    const answer = await fetch(simd ? "varmint-simd128.wasm" : "varmint.wasm");
    if (!answer.ok) throw new Error(`${answer.url}: ${answer.status}`);
    return WebAssembly.compile(await answer.arrayBuffer());
}

/** An open model and the image that it makes, in a memory of its own. */
export class Generator {
    /** Opens a model: `file` are the bytes of a .vmt file. Throws what varmint says. */
    static async open(module, file) {
        const g = new Generator();
        g.c = (await WebAssembly.instantiate(module)).exports;
        g.program = g.c.__heap_base.value;
        g.scratch = up(g.program, 16);
        g.at = up(g.scratch + 256, g.c.varmint_generator_align());
        g.size = g.c.varmint_generator_size();
        g.model = up(g.at + g.size, 64);
        g.preview = g.model + file.length;
        g.file = file.length;
        g.reserve(g.preview);
        g.bytes(g.model, file.length).set(file);
        g.check(g.c.varmint_open(g.at, g.size, g.model, file.length, g.scratch));
        return g;
    }

    reserve(end) {
        const missing = end - this.c.memory.buffer.byteLength;
        if (missing > 0) this.c.memory.grow(Math.ceil(missing / PAGE)); // throws where the browser refuses
    }

    bytes(at, n) {
        return new Uint8Array(this.c.memory.buffer, at, n);
    }

    view() {
        return new DataView(this.c.memory.buffer, this.scratch, 256);
    }

    check(status) {
        if (status === 0) return;
        const from = this.c.varmint_message(status);
        const all = new Uint8Array(this.c.memory.buffer, from);
        throw new Error(`E${status}: ${new TextDecoder().decode(all.subarray(0, all.indexOf(0)))}`);
    }

    /** Whether there is a thing, where one of the errors means that there is none. */
    found(status, none) {
        if (status === none) return false;
        this.check(status);
        return true;
    }

    /** All tiers of the model, best first, with what each one needs. */
    tiers() {
        const all = [];
        while (this.found(this.c.varmint_tier_at(this.at, all.length, this.scratch), UNKNOWN_TIER)) {
            const v = this.view();
            const name = this.bytes(this.scratch + 40, 20);
            all.push({
                index: all.length,
                name: new TextDecoder().decode(name.subarray(0, name.indexOf(0))),
                stepMacs: Number(v.getBigUint64(0, true)),
                imageMacs: Number(v.getBigUint64(8, true)),
                arenaBytes: v.getUint32(16, true),
                width: v.getUint32(20, true),
                height: v.getUint32(24, true),
                previewWidth: v.getUint32(28, true),
                previewHeight: v.getUint32(32, true),
                scales: v.getUint32(36, true),
            });
        }
        return all;
    }

    /** The names of a condition table's rows (0: class, 1: style); their numbers where the model has no names. */
    labels(table) {
        const all = [];
        while (this.found(this.c.varmint_label_at(this.at, table, all.length, this.scratch), UNKNOWN_LABEL)) {
            const v = this.view();
            const [from, n] = [v.getUint32(0, true), v.getUint32(4, true)];
            all.push(from ? new TextDecoder().decode(this.bytes(from, n)) : `${all.length}`);
        }
        return all;
    }

    /** Starts an image: `labels` are rows of the tables, `seed` a BigInt. */
    start(tier, labels, seed) {
        const previewBytes = tier.previewWidth * tier.previewHeight * 3;
        this.arena = up(this.preview + previewBytes, 16);
        this.arenaBytes = tier.arenaBytes;
        this.reserve(this.arena + tier.arenaBytes);
        this.check(this.c.varmint_request_default(this.at, this.scratch));
        const v = this.view();
        v.setBigUint64(0, seed, true);
        for (let t = 0; t < TABLES; t++) v.setUint32(8 + 4 * t, labels[t] ?? NOT_GIVEN, true);
        v.setUint32(40, this.preview, true);
        v.setUint32(44, previewBytes, true);
        this.check(this.c.varmint_start(this.at, tier.index, this.arena, tier.arenaBytes, this.scratch));
    }

    /** A bounded piece of work, and what it brought; `rgb` is valid until the next call. */
    step() {
        this.check(this.c.varmint_step(this.at, this.scratch));
        const v = this.view();
        const [rgb, kind] = [v.getUint32(16, true), v.getUint32(20, true)];
        const [width, height] = [v.getUint32(32, true), v.getUint32(36, true)];
        return {
            kind,
            done: Number(v.getBigUint64(0, true)),
            total: Number(v.getBigUint64(8, true)),
            scale: v.getUint32(24, true),
            y: v.getUint32(28, true),
            width,
            height,
            rgb: rgb ? this.bytes(rgb, width * height * 3) : null,
        };
    }

    /** Who has which bytes of the module's memory. */
    memory() {
        const total = this.c.memory.buffer.byteLength;
        const used = this.arena + this.arenaBytes;
        return {
            total,
            parts: {
                model: this.file,
                arena: this.arenaBytes,
                program: this.program,
                generator: used - this.program - this.file - this.arenaBytes,
                free: total - used,
            },
        };
    }
}

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
    for (let bit = 0; bit < 8; bit++) n = (n >>> 1) ^ (n & 1 ? 0xedb88320 : 0);
    return n;
});

/** CRC-32 (ISO-HDLC) of `crc`, continued over more bytes. */
export function crc32(crc, bytes) {
    crc = ~crc;
    for (const b of bytes) crc = (crc >>> 8) ^ CRC[(crc ^ b) & 255];
    return ~crc >>> 0;
}
