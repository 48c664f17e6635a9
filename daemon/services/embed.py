#!/usr/bin/python3
"""embed.py INPUT OUTPUT NAME: the bytes of a file as a C array."""
import sys

data = open(sys.argv[1], "rb").read()
lines = [", ".join(f"0x{b:02x}" for b in data[i:i + 16]) + "," for i in range(0, len(data), 16)]
with open(sys.argv[2], "w") as out:
    out.write("#include <stddef.h>\n#include <stdint.h>\n")
    out.write(f"static const uint8_t {sys.argv[3]}[] = {{\n" + "\n".join(lines) + "\n};\n")
