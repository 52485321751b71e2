"""A CPU in Python: as much of x86-64 as the guest programs are made of.

It runs the very bytes that KVM runs.  An instruction whose memory is missing has done nothing yet
when `load` or `store` raises: it is run again.

Source: Intel SDM volume 2: 2.1 (formats), and each instruction's page.
"""

from __future__ import annotations

from collections.abc import Callable

from userfault.uapi.kvm import kvm_regs

_NAMES = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *(f"r{number}" for number in range(8, 16)),
)
_WORD = (1 << 64) - 1
_CARRY, _ZERO = 0x1, 0x40
_REX = range(0x40, 0x50)
_NEEDS_MORE = 4  # of ModRM: a SIB byte, which no program of ours has


class UndefinedInstructionError(Exception):
    """A byte that is no instruction of the programs: a triple fault, as they handle nothing."""


class Interpreter:
    """Registers by name, and what is at `code[rip:]` run one by one."""

    def __init__(
        self,
        code: bytes,
        registers: dict[str, int],
        load: Callable[[int], int],
        store: Callable[[int, int], None],
    ) -> None:
        self.registers = dict.fromkeys(kvm_regs.names, 0) | registers
        self._code = code
        self._load = load
        self._store = store
        self._at = 0
        self._rex = 0

    def run(self) -> int:
        """Until an OUT: its port.  Raises what `load` and `store` do."""
        while True:
            port = self._step()
            if port is not None:
                return port

    def _step(self) -> int | None:
        self._at, self._rex, port = self.registers["rip"], 0, None
        opcode = self._byte()
        if opcode in _REX:
            self._rex, opcode = opcode, self._byte()
        if opcode == 0xEE:  # out dx, al
            port = self.registers["rdx"] & 0xFFFF
        elif opcode == 0xBA:  # mov edx, imm32
            self.registers["rdx"] = int.from_bytes(self._bytes(4), "little")
        elif opcode in _JUMPS:
            self._jump(_JUMPS[opcode](self.registers["rflags"]))
        else:
            self._with_operands(opcode)
        self.registers["rip"] = self._at
        return port

    def _with_operands(self, opcode: int) -> None:
        if opcode == 0x0F:
            opcode = opcode << 8 | self._byte()
        mode, reg, rm = self._modrm()
        register = _NAMES[reg + (8 if self._rex & 4 else 0)]
        operand = _NAMES[rm + (8 if self._rex & 1 else 0)]
        if mode != 3:
            self._move(opcode, register, self.registers[operand] + self._displacement(mode, rm))
        elif opcode in _BINARY:
            self._binary(opcode, register, operand)
        else:
            self._unary(opcode, reg, operand)

    def _move(self, opcode: int, register: str, address: int) -> None:
        if opcode == 0x8B:
            self.registers[register] = self._load(address & _WORD)
        elif opcode == 0x89:
            self._store(address & _WORD, self.registers[register])
        else:
            raise UndefinedInstructionError(f"{opcode:#x} with memory")

    def _binary(self, opcode: int, register: str, operand: str) -> None:
        target, source = (register, operand) if opcode == 0x0FAF else (operand, register)
        first, second = self.registers[target], self.registers[source]
        value = _BINARY[opcode](first, second)
        if opcode != 0x89:  # MOV leaves the flags
            self._flags(value & _WORD, carry=opcode == 0x39 and first < second)
        if opcode != 0x39:  # CMP leaves the operand
            self.registers[target] = value & _WORD

    def _unary(self, opcode: int, reg: int, operand: str) -> None:
        value, carry = self.registers[operand], bool(self.registers["rflags"] & _CARRY)
        if (opcode, reg) == (0xF6, 0):  # test r/m8, imm8
            self._flags(value & self._byte(), carry=False)
            return
        if (opcode, reg) == (0xFF, 1):  # dec, which leaves the carry
            value = (value - 1) & _WORD
            self._flags(value, carry=carry)
        elif (opcode, reg) == (0xC1, 4):  # shl
            value = (value << self._byte()) & _WORD
            self._flags(value, carry=False)
        elif (opcode, reg) == (0xC1, 0):  # rol
            turns = self._byte()
            value = (value << turns | value >> (64 - turns)) & _WORD
        else:
            raise UndefinedInstructionError(f"{opcode:#x} /{reg}")
        self.registers[operand] = value

    def _flags(self, value: int, *, carry: bool) -> None:
        kept = self.registers["rflags"] & ~(_CARRY | _ZERO)
        self.registers["rflags"] = kept | _CARRY * carry | _ZERO * (not value)

    def _jump(self, taken: bool) -> None:
        offset = int.from_bytes(self._bytes(1), "little", signed=True)
        self._at += offset if taken else 0

    def _modrm(self) -> tuple[int, int, int]:
        byte = self._byte()
        return byte >> 6, byte >> 3 & 7, byte & 7

    def _displacement(self, mode: int, rm: int) -> int:
        if mode == 2 or rm == _NEEDS_MORE or (mode, rm) == (0, 5):
            raise UndefinedInstructionError(f"addressing mode {mode}, {rm}")
        return int.from_bytes(self._bytes(1), "little", signed=True) if mode else 0

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _bytes(self, count: int) -> bytes:
        found = self._code[self._at : self._at + count]
        if len(found) < count:
            raise UndefinedInstructionError("behind the end of the code")
        self._at += count
        return found


_JUMPS: dict[int, Callable[[int], bool]] = {
    0xEB: lambda _: True,  # jmp
    0x73: lambda flags: not flags & _CARRY,  # jae
    0x74: lambda flags: bool(flags & _ZERO),  # je
    0x75: lambda flags: not flags & _ZERO,  # jne
}
_BINARY: dict[int, Callable[[int, int], int]] = {
    0x01: lambda first, second: first + second,  # add
    0x21: lambda first, second: first & second,  # and
    0x39: lambda first, second: first - second,  # cmp
    0x89: lambda _, second: second,  # mov
    0x0FAF: lambda first, second: first * second,  # imul
}
