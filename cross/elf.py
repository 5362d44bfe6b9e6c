"""The ELF files that cross/build makes: which functions are in them, and what need not be."""

import pathlib
import struct

FUNCTION = 2  # STT_FUNC
SYMBOL_TABLE = 2  # SHT_SYMTAB


def write_symbols(path, to):
    """Writes the functions of a program that has its symbols, a line each: address, size, name."""
    lines = [f"{address:08x} {size:6} {name}\n" for address, size, name in sorted(set(_functions(path.read_bytes())))]
    pathlib.Path(to).write_text("".join(lines))


def drop_sections(path):
    """Removes every section that is not loaded: symbols, and what the linker's own stripping leaves,
    such as .pdr, which on MIPS describes each function to debuggers and is a tenth of the file."""
    data = path.read_bytes()
    header, section, fields, sections = _read(data)
    names = sections[fields[13]]
    kept = [sections[0]] + [s for s in sections if s[2] & 2]  # SHF_ALLOC
    # No offset may change but of what follows the last loaded byte (type 8: occupies no space).
    end = max(s[4] + (s[5] if s[1] != 8 else 0) for s in kept)
    strings = b"\0"
    for s in kept[1:]:
        old = data[names[4] + s[0] :].split(b"\0", 1)[0]
        s[0] = len(strings)
        strings += old + b"\0"
    names[0] = len(strings)
    strings += b".shstrtab\0"
    names[4], names[5] = end, len(strings)
    kept.append(names)
    # Links between sections are indices; loaded ones of a static program have none that matter.
    for s in kept:
        s[6] = 0
    tail = data[:end] + strings
    tail += bytes(-len(tail) % 8)
    fields[6], fields[12], fields[13] = len(tail), len(kept), len(kept) - 1
    path.write_bytes(header.pack(*fields) + tail[header.size :] + b"".join(section.pack(*s) for s in kept))


def _functions(data):
    """Address, size and name of each function."""
    wide, order = data[4] == 2, "<" if data[5] == 1 else ">"
    entry = struct.Struct(order + ("IBBHQQ" if wide else "IIIBBH"))
    _, _, _, sections = _read(data)
    for table in sections:
        if table[1] != SYMBOL_TABLE:
            continue
        strings = sections[table[6]][4]
        for at in range(table[4], table[4] + table[5], entry.size):
            if wide:
                name, info, _, section, address, size = entry.unpack_from(data, at)
            else:
                name, address, size, info, _, section = entry.unpack_from(data, at)
            if info & 15 == FUNCTION and section and size:
                text = data[strings + name : data.index(b"\0", strings + name)]
                yield address, size, text.decode()


def _read(data):
    """Formats of the header and of sections, the header's fields, the sections' fields."""
    wide, order = data[4] == 2, "<" if data[5] == 1 else ">"
    header = struct.Struct(order + ("16sHHIQQQIHHHHHH" if wide else "16sHHIIIIIHHHHHH"))
    section = struct.Struct(order + ("IIQQQQIIQQ" if wide else "IIIIIIIIII"))
    fields = list(header.unpack_from(data))
    start, count = fields[6], fields[12]
    return header, section, fields, [list(section.unpack_from(data, start + i * section.size)) for i in range(count)]
