// The page: what to draw, the picture as it comes, and what the memory holds. The work is done in slices between two frames,
// because a step is bounded: no worker is needed.

import { DONE, Generator, ROWS, SCALE, crc32, hasSimd, load } from "./varmint.js";

const $ = (id) => document.getElementById(id);
const SLICE_MS = 12;
const FIRST_CLASS = "red heart";
const FIRST_TIER = { "emoji-micro.vmt": "fast" };

const simd = hasSimd && new URLSearchParams(location.search).get("simd") !== "0";
const module = load(simd);
let generator, tiers, classes;
let turn = 0; // of the last click: an older one that is still at work gives way

const whole = (n) => n.toLocaleString("en");
const kib = (n) => `${whole(Math.round(n / 1024))} KiB`;

function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
}

function state(now, error) {
    document.body.dataset.state = now;
    $("draw").disabled = now === "loading" || !generator;
    $("error").hidden = !error;
    $("error").textContent = error ?? "";
}

async function open(name, read) {
    const mine = ++turn;
    state("loading");
    try {
        const file = await read();
        const opened = await Generator.open(await module, file);
        if (mine !== turn) return;
        generator = opened;
        show(name);
        state("ready");
    } catch (e) {
        if (mine === turn) state("error", `${name}: ${e.message}`);
    }
}

async function beside(name) {
    const answer = await fetch(name);
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
    return new Uint8Array(await answer.arrayBuffer());
}

/** What the open model has to choose from. */
function show(name) {
    for (const b of document.querySelectorAll("[data-model]"))
        b.setAttribute("aria-pressed", String(b.dataset.model === name));
    classes = new Map(generator.labels(0).map((label, row) => [label, row]));
    $("classes").replaceChildren(...[...classes.keys()].map((value) => make("option", { value })));
    if (!classes.has($("class").value))
        $("class").value = classes.has(FIRST_CLASS) ? FIRST_CLASS : [...classes.keys()][0];
    const styles = generator.labels(1);
    $("style-field").hidden = styles.length === 0;
    $("style").replaceChildren(
        make("option", { value: "", textContent: "any" }),
        ...styles.map((label, row) => make("option", { value: row, textContent: label })),
    );
    tiers = generator.tiers();
    const first = Math.max(0, tiers.findIndex((t) => t.name === FIRST_TIER[name]));
    $("tiers").replaceChildren(
        ...tiers.map((t) =>
            make(
                "label",
                { className: "tier" },
                make("input", { type: "radio", name: "tier", value: t.index, checked: t.index === first }),
                t.name,
                make("small", { textContent: `${kib(t.arenaBytes)} · ${whole(Math.round(t.imageMacs / 1e6))} MMAC` }),
            ),
        ),
    );
    $("kernels").textContent = simd ? "simd128" : "scalar";
}

/** Pixels onto a canvas of their size. */
function paint(canvas, { rgb, width, height, y }, at = y) {
    const rgba = new Uint8ClampedArray(width * height * 4).fill(255);
    for (let i = 0; i < width * height; i++) rgba.set(rgb.subarray(3 * i, 3 * i + 3), 4 * i);
    canvas.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, at);
}

function resize(canvas, width, height) {
    [canvas.width, canvas.height] = [width, height];
}

function gauge() {
    const { total, parts } = generator.memory();
    const words = {
        model: "model, read in place",
        arena: "arena, as the plan said",
        program: "stack and constants",
        generator: "generator and previews",
        free: "rest of the last page",
    };
    const bars = Object.entries(parts).map(([name, bytes]) => {
        const bar = make("div", { className: name, title: `${words[name]}: ${whole(bytes)} bytes` });
        bar.style.flexGrow = bytes;
        return bar;
    });
    $("gauge").replaceChildren(...bars);
    const lines = Object.entries(parts).map(([name, bytes]) =>
        make(
            "li",
            { className: name === "arena" ? "main" : "" },
            make("i", { className: name }),
            words[name],
            make("b", { id: `${name}-bytes`, textContent: whole(bytes) }),
        ),
    );
    lines.push(
        make("li", { className: "total" }, "WebAssembly memory", make("b", { id: "total-bytes", textContent: whole(total) })),
    );
    $("legend").replaceChildren(...lines);
}

const frame = () => new Promise((then) => requestAnimationFrame(then));

async function draw() {
    const row = classes.get($("class").value.trim());
    if (row === undefined) return state("error", `“${$("class").value}” is not among this model's classes`);
    const tier = tiers[Number(new FormData($("form")).get("tier"))];
    const style = $("style").value;
    const labels = [row, style === "" ? undefined : Number(style)];
    const mine = ++turn;
    state("drawing");
    try {
        generator.start(tier, labels, BigInt($("seed").value));
        gauge();
        const thumbs = Array.from({ length: tier.scales }, () => make("canvas", { width: 1, height: 1 }));
        $("strip").replaceChildren(...thumbs.map((c, k) => make("li", {}, c, `${k + 1}`)));
        resize($("picture"), tier.previewWidth, tier.previewHeight);

        let [crc, steps, busy, longest, rows] = [0, 0, 0, 0, false];
        for (let event; event?.kind !== DONE; ) {
            const slice = performance.now();
            let now = slice;
            do {
                const before = now;
                event = generator.step();
                now = performance.now();
                longest = Math.max(longest, now - before);
                steps++;
                if (event.kind === SCALE) {
                    for (const c of [$("picture"), thumbs[event.scale]]) {
                        resize(c, event.width, event.height);
                        paint(c, event);
                    }
                } else if (event.kind === ROWS) {
                    if (!rows) {
                        // The picture goes over the last preview, row by row.
                        rows = true;
                        resize($("picture"), tier.width, tier.height);
                        const context = $("picture").getContext("2d");
                        context.imageSmoothingEnabled = false;
                        context.drawImage(thumbs.at(-1), 0, 0, tier.width, tier.height);
                    }
                    crc = crc32(crc, event.rgb);
                    paint($("picture"), event);
                }
                // A scale is worth a frame of its own.
            } while (event.kind !== DONE && event.kind !== SCALE && now - slice < SLICE_MS);
            busy += now - slice;
            $("progress").style.width = `${(100 * event.done) / event.total}%`;
            await frame();
            if (mine !== turn) return;
        }
        $("time").textContent = `${busy.toFixed(0)} ms`;
        $("steps").textContent = whole(steps - 1); // the last one only says that it is done
        $("longest").textContent = `${longest.toFixed(1)} ms`;
        $("checksum").textContent = `0x${crc.toString(16).padStart(8, "0")}`;
        state("done");
    } catch (e) {
        if (mine === turn) state("error", e.message);
    }
}

for (const b of document.querySelectorAll("[data-model]"))
    b.addEventListener("click", () => open(b.dataset.model, () => beside(b.dataset.model)));
$("file").addEventListener("change", () => {
    const [file] = $("file").files;
    if (file) open(file.name, async () => new Uint8Array(await file.arrayBuffer()));
    $("file").value = ""; // the same file may be chosen again
});
$("dice").addEventListener("click", () => {
    $("seed").value = crypto.getRandomValues(new Uint32Array(1))[0] % 100000;
    if (!$("draw").disabled) $("form").requestSubmit();
});
$("form").addEventListener("submit", (event) => {
    event.preventDefault();
    draw();
});
open("emoji-micro.vmt", () => beside("emoji-micro.vmt"));
