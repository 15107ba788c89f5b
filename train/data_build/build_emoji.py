#!/usr/bin/env python3
"""Render openly licensed emoji sets to 64x64 RGB over white and write emoji64.safetensors.

Inputs are public npm packages, unpacked as README.md says.  Beside this file:
    classes.txt   code points of the 1,644 names, in class order
    held_out.txt  the 3 % of concepts (gender and skin tone ignored) that no style shows in training
The split of a picture: 2 if its concept is in held_out.txt; else 1 for the 7 % of (style, concept) cells whose md5 says
so (the name is then seen in other styles only); else 0.
"""

import argparse
import hashlib
import io
import json
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
SIDE, OVERSAMPLE = 64, 2
STYLES = {  # style -> folder of the unpacked package
    "noto": "noto",
    "noto-blob": "noto-v1",
    "twemoji": "twemoji",
    "fluent-flat": "fluent-emoji-flat",
    "fluent-color": "fluent-emoji",
    "fluent-3d": "fluent-emoji-3d",
    "emojione2": "emojione",
    "fxemoji": "fxemoji",
}
TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}


def normal(code):
    return "-".join(p for p in code.lower().split("-") if p != "fe0f")


def concept(code):
    """The code point sequence without gender and skin tone: what a held-out concept is."""
    p = code.split("-")
    if p[0] in ("1f468", "1f469"):  # man, woman -> person
        p = ["1f9d1"] + p[1:]
    if len(p) >= 3 and p[-1] in ("2642", "2640") and p[-2] == "200d":
        p = p[:-2]
    elif "2642" in p or "2640" in p:
        i = next(i for i, x in enumerate(p) if x in ("2642", "2640"))
        p = p[: i - 1] + p[i + 1 :]
    return "-".join(x for x in p if x not in TONES)


class IconSet:
    """One @iconify-json package: SVG bodies by name, aliases, and (in most) a code point table."""

    def __init__(self, folder):
        with open(os.path.join(folder, "icons.json")) as file:
            self.json = json.load(file)
        chars = os.path.join(folder, "chars.json")
        self.chars = None
        if os.path.exists(chars):
            with open(chars) as file:
                self.chars = {normal(k): v for k, v in json.load(file).items()} or None

    def has(self, name):
        return name in self.json["icons"] or name in self.json.get("aliases", {})

    def svg(self, name):
        icon = self.json["icons"].get(name)
        if icon is None:
            alias = self.json.get("aliases", {}).get(name)
            if alias is None or set(alias) - {"parent"}:  # a turned or mirrored copy: not this drawing
                return None
            icon = self.json["icons"].get(alias["parent"])
            if icon is None:
                return None
        size = lambda key, default: icon.get(key, self.json.get(key, default))
        w, h, left, top = size("width", 16), size("height", 16), icon.get("left", 0), icon.get("top", 0)
        m = max(w, h)  # a square box round the middle
        x, y, px = left + w / 2 - m / 2, top + h / 2 - m / 2, SIDE * OVERSAMPLE
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{x} {y} {m} {m}" width="{px}" height="{px}">{icon["body"]}</svg>'
        )


def render(job):
    """(style, code, svg text or file name) -> (style, code, u8 [3,64,64] or None)."""
    style, code, source = job
    try:
        if source.startswith("<svg"):
            import resvg_py

            px = SIDE * OVERSAMPLE
            data = bytes(resvg_py.svg_to_bytes(svg_string=source, width=px, height=px, skip_system_fonts=True))
            image = Image.open(io.BytesIO(data)).convert("RGBA")
        else:
            image = Image.open(source).convert("RGBA")
    except Exception as error:  # a few drawings use SVG features that the renderer refuses
        print(f"left out {style} {code}: {str(error)[:80]}")
        return style, code, None
    a = np.asarray(image).astype(np.float32) / 255
    a[..., :3] *= a[..., 3:]  # resample premultiplied, or edges pick up the colour of transparent pixels
    if a.shape[:2] == (SIDE * OVERSAMPLE,) * 2:
        a = a.reshape(SIDE, OVERSAMPLE, SIDE, OVERSAMPLE, 4).mean((1, 3))
    else:
        how = Image.BOX if a.shape[0] % SIDE == 0 else Image.LANCZOS
        planes = [np.asarray(Image.fromarray(a[..., i]).resize((SIDE, SIDE), how)) for i in range(4)]
        a = np.stack(planes, -1).clip(0, 1)
    rgb = (a[..., :3] + (1 - a[..., 3:])).clip(0, 1)
    return style, code, (rgb * 255 + 0.5).astype(np.uint8).transpose(2, 0, 1)


def jobs(packages, codes):
    icons = {s: IconSet(os.path.join(packages, d)) for s, d in STYLES.items() if s != "fluent-3d"}
    # All names a code point goes by (with older aliases): for the two sets that come without a code point table.
    names = {}
    for icon_set in icons.values():
        if icon_set.chars is None:
            continue
        older = {}
        for alias, target in icon_set.json.get("aliases", {}).items():
            if not set(target) - {"parent"}:
                older.setdefault(target["parent"], []).append(alias)
        for code, name in icon_set.chars.items():
            known = names.setdefault(code, [])
            known.extend(n for n in [name] + older.get(name, []) if n not in known)
    folder = os.path.join(packages, STYLES["fluent-3d"], "assets")
    three_d = {normal(f.split(".")[0]): os.path.join(folder, f) for f in sorted(os.listdir(folder))}
    for style in STYLES:
        for code in codes:
            if style == "fluent-3d":
                source = three_d.get(code)
            else:
                icon_set = icons[style]
                if icon_set.chars is not None:
                    candidates = [icon_set.chars.get(code)]
                elif style == "fluent-color":  # drawn by the same hand, named like fluent-flat
                    flat = icons["fluent-flat"].chars.get(code)
                    candidates = [flat] if flat else names.get(code, [])
                elif style == "fxemoji":  # writes its names without hyphens
                    candidates = [n.replace("-", "") for n in names.get(code, [])]
                else:
                    candidates = names.get(code, [])
                name = next((n for n in candidates if n and icon_set.has(n)), None)
                source = icon_set.svg(name) if name else None
            if source:
                yield style, code, source


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--packages", required=True, help="folder with the unpacked npm packages")
    p.add_argument("--out", required=True, help="emoji64.safetensors")
    p.add_argument("--workers", type=int, default=os.cpu_count())
    args = p.parse_args()
    read = lambda name: open(os.path.join(HERE, name)).read().split()
    codes, held_out = read("classes.txt"), set(read("held_out.txt"))
    with open(os.path.join(args.packages, "emojibase-data", "en", "data.json")) as file:
        label = {normal(e["hexcode"]): e["label"] for e in json.load(file)}
    styles, rows, seen = list(STYLES), [], set()
    with ProcessPoolExecutor(args.workers) as pool:
        for style, code, image in pool.map(render, jobs(args.packages, codes), chunksize=64):
            if image is None or (style, image.tobytes()) in seen:  # the same drawing under two names: keep the first
                continue
            seen.add((style, image.tobytes()))
            key = concept(code)
            cell = int(hashlib.md5(f"{style}/{key}".encode()).hexdigest(), 16) % 100 < 7
            rows.append((image, codes.index(code), styles.index(style), 2 if key in held_out else int(cell)))
    images, classes, style_ids, split = zip(*rows)
    save_file(
        {
            "images": np.stack(images),
            "class": np.array(classes, np.int32),
            "style": np.array(style_ids, np.int32),
            "split": np.array(split, np.uint8),
        },
        args.out,
        metadata={
            "class_names": json.dumps([label[c] for c in codes], ensure_ascii=False),
            "codepoints": json.dumps(codes),
            "style_names": json.dumps(styles),
        },
    )
    print(f"{len(rows)} pictures; split sizes {np.bincount(split).tolist()}")


if __name__ == "__main__":
    main()
