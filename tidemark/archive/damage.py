"""What is wrong with an archive's bytes, and where."""

from __future__ import annotations

from tidemark.errors import TidemarkError


class DamagedError(TidemarkError):
    """A place in an archive that cannot be read.

    Attributes:
        part: The index of the part that was being read.
        offset: The byte of the file, as stored, up to which it could be followed, as near as the decompressor tells.
        text_offset: The byte of its text at which the damage is; of Parquet, the row of the part.
        why: What is wrong; the end of a sentence.
    """

    def __init__(self, part: int, offset: int, text_offset: int, why: str) -> None:
        super().__init__(part, offset, text_offset, why)
        self.part = part
        self.offset = offset
        self.text_offset = text_offset
        self.why = why

    def __str__(self) -> str:
        """One sentence, to which the caller adds the file's name."""
        return f"part {self.part} is damaged at byte {self.offset}, {self.text_offset} into its text: {self.why}"

    def losing(self, before: int, behind: int) -> DamagedError:
        """The same, told with the bytes of the broken lines that are given up on its sides."""
        if not before + behind:
            return self
        lost = f"; of the broken lines there, {before} bytes before it and {behind} behind it are left out"
        return DamagedError(self.part, self.offset, self.text_offset, self.why + lost)
