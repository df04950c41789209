"""What kernels are made for: a call of the captured graph, whatever buffers it works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tinygrad.uop.ops import UOp

from mossnet_tg import ops
from mossnet_tg.codegen import tensorir
from mossnet_tg.codegen.capture import Call
from mossnet_tg.codegen.kernels.build import Generated
from mossnet_tg.codegen.kernels.dispatch import generate_op, op_params
from mossnet_tg.codegen.layout import Matrix
from mossnet_tg.codegen.schedules import Schedule
from mossnet_tg.codegen.schedules.space import fits
from mossnet_tg.codegen.tuning import Task
from mossnet_tg.errors import MossnetError


@dataclass(frozen=True)
class Workload:
    """An op, or a kernel of tinygrad's; `slots` are the buffers that are matrices. Equal ones have equal kernels."""

    source: ops.Op | tensorir.Kernel = field(compare=False)  # the task's text says all of it
    slots: tuple[int, ...]
    task: Task

    @classmethod
    def of(cls, call: Call, kernel: tensorir.Kernel | None, n_tokens: int, matrices: Mapping[int, Matrix]) -> Workload:
        """`kernel` is the call's, read, where it is no op."""
        facts = tuple((m.shape, m.dtype) for m in matrices.values())
        if isinstance(call.kernel, UOp):
            assert kernel is not None
            kernel_class = "product" if tensorir.is_product(kernel, matrices, n_tokens) else "loops"
            said = f"{n_tokens} {call.kernel.key.hex()[:16]}"
            source: ops.Op | tensorir.Kernel = kernel
        else:
            kernel_class, source = type(call.kernel).__name__, call.kernel
            said = repr(source).partition("(")[2].rstrip(")")
        text = " ".join([kernel_class, said, *(f"{list(shape)} {dtype}" for shape, dtype in facts)])
        return cls(source, tuple(matrices), Task(kernel_class, n_tokens, facts, text))

    def make(self, name: str, schedule: Schedule) -> list[Generated]:
        """The kernels; several run in order. Raises MossnetError where a choice of records fits none."""
        s = schedule.of_task(self.task)
        if not fits(s, self.task):
            text = f"the records' choice for {self.task.text} fits no kernel: {schedule.tuning.chosen(self.task)}"
            raise MossnetError(text, "mossnet-tg tune clear removes records")
        if isinstance(self.source, tensorir.Kernel):
            matrices = {
                slot: Matrix(shape, dtype, s.panels_of(shape, dtype))
                for slot, (shape, dtype) in zip(self.slots, self.task.matrices, strict=True)
            }
            return tensorir.generate(name, self.source, matrices, self.task.n_tokens, s)
        return generate_op(name, self.source, [dtype for _, dtype in self.task.matrices], s)

    def names(self, schedule: Schedule) -> list[str]:
        """Of what becomes several kernels: its buffers' names in order; one that has none of them is scratch."""
        if isinstance(self.source, tensorir.Kernel):
            return [*(p.name for p in self.source.params({})), "params"]
        return op_params(self.source, [dtype for _, dtype in self.task.matrices], schedule.of_task(self.task))
