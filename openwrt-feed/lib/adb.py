"""ADB, the binary values inside apk-tools 3 files: a block of values that refer to one another by
offset. Writing keeps the order in which apk's own tools write, so that the same package is the same
bytes."""

import struct

KIND_INT, KIND_INT32 = 0x1, 0x2
KIND_BLOB8, KIND_BLOB16, KIND_BLOB32 = 0x8, 0x9, 0xA
KIND_OBJECT = 0xE
OFFSET = (1 << 28) - 1


class Writer:
    """Collects values; each method returns the word by which others refer to the value."""

    def __init__(self):
        self.data = bytearray(8)
        self._known = {}  # bytes of a value: offset of its latest copy

    def integer(self, number):
        if 0 <= number <= OFFSET:
            return KIND_INT << 28 | number
        return KIND_INT32 << 28 | self._put(struct.pack("<I", number), 4)

    def blob(self, content):
        """A byte string; text is taken as UTF-8."""
        if isinstance(content, str):
            content = content.encode()
        if not content:
            return 0
        for kind, form, align in ((KIND_BLOB8, "<B", 1), (KIND_BLOB16, "<H", 2), (KIND_BLOB32, "<I", 4)):
            size = struct.calcsize(form)
            if len(content) < 1 << 8 * size:
                return kind << 28 | self._put(struct.pack(form, len(content)) + content, align)
        raise ValueError("too long for a blob")

    def hole(self, length):
        """A blob of zero bytes that shares nothing, to be filled in later: (word, offset)."""
        offset = self._append(struct.pack("<B", length) + bytes(length), 1)
        return KIND_BLOB8 << 28 | offset, offset + 1

    def object(self, fields):
        """An object or array of words; zeros at its end are left out, and nothing is the word 0."""
        fields = list(fields)
        while fields and fields[-1] == 0:
            fields.pop()
        if not fields:
            return 0
        return KIND_OBJECT << 28 | self._put(struct.pack(f"<{len(fields) + 1}I", len(fields) + 1, *fields), 4)

    def finish(self, root):
        """The block's bytes."""
        struct.pack_into("<BBHI", self.data, 0, 0, 0, 0, root)
        return bytearray(self.data)

    def _put(self, content, align):
        known = self._known.get(content)
        if known is None or known % align:
            known = self._known[content] = self._append(content, align)
        return known

    def _append(self, content, align):
        self.data.extend(bytes(-len(self.data) % align))
        offset = len(self.data)
        if offset + len(content) > OFFSET:
            raise ValueError("the ADB is full")
        self.data.extend(content)
        return offset


class Bad(Exception):
    """Bytes that are no ADB of the form that is written here."""


def read(data, word=None):
    """The value behind a word (default: the root): int, bytes, None, or a list of such."""
    if word is None:
        if len(data) < 8:
            raise Bad("shorter than its header")
        compat, version, reserved, word = struct.unpack_from("<BBHI", data)
        if compat or version or reserved:
            raise Bad("an unknown version")
    kind, value = word >> 28, word & OFFSET
    try:
        if word == 0:
            return None
        if kind == KIND_INT:
            return value
        if kind in (KIND_INT32, KIND_OBJECT) and value % 4:
            raise Bad("a value is not aligned")
        if kind == KIND_INT32:
            return struct.unpack_from("<I", data, value)[0]
        if kind in (KIND_BLOB8, KIND_BLOB16, KIND_BLOB32):
            form = {KIND_BLOB8: "<B", KIND_BLOB16: "<H", KIND_BLOB32: "<I"}[kind]
            (length,) = struct.unpack_from(form, data, value)
            content = bytes(data[value + struct.calcsize(form) :][:length])
            if len(content) < length:
                raise Bad("a string reaches over the end")
            return content
        if kind == KIND_OBJECT:
            (count,) = struct.unpack_from("<I", data, value)
            # What refers is written after what it refers to: no circle can be followed.
            words = struct.unpack_from(f"<{count - 1}I", data, value + 4) if count else ()
            for inner in words:
                if inner >> 28 == KIND_OBJECT and (inner & OFFSET) >= value:
                    raise Bad("an object refers forwards")
            return [read(data, inner) for inner in words]
    except struct.error as error:
        raise Bad("a value reaches over the end") from error
    raise Bad(f"unknown kind of value {kind:x}")
