"""From a kernel's TensorIR to what emitters take: TVM's passes, stopped where a plain function on pointers is left.

TVM's own entry points wrap every function in its packed calling convention and its runtime. We stop before that:
buffers become plain pointers, local arrays become stack or registers. On a CPU the object file needs nothing but
itself; on a GPU the parameters keep our order, and one function is one kernel.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import ir, s_tir, tirx
from tvm.target import Target as TvmTarget

_S, _X = s_tir.transform, tirx.transform

_PASSES = tvm.ir.transform.Sequential(
    [
        _S.CanonicalizeLoop(),
        _S.LowerInitBlock(),
        _S.PlanAndUpdateBufferAllocationLocation(),
        _S.ConvertBlocksToOpaque(),
        _S.CompactBufferAllocation(),
        _S.LowerMatchBuffer(),
        _S.StmtSimplify(),
        _S.LowerOpaqueBlock(),
        _X.FlattenBuffer(),
        _X.NarrowDataType(32),
        _X.VectorizeLoop(True),
        _X.StorageRewrite(),
        _X.UnrollLoop(),
        _S.RenormalizeSplitPattern(),
        _X.StmtSimplify(),
        _X.RemoveNoOp(),
        _S.RewriteUnsafeSelect(),
        _X.CommonSubexprElim(),
        _X.AnnotateEntryFunc(),
    ]
)


# What every GPU emitter writes down: the operations left are the same for all of them.
_GPU = TvmTarget({"kind": "opencl"})
# Our frames hold no blocks to lower. No StmtSimplify: it puts what T.bind named into every use again, and a softplus
# of four kilobytes becomes one of a hundred, for the driver's compiler to take apart at each start.
_GPU_PASSES = tvm.ir.transform.Sequential(
    [
        _X.BindTarget(_GPU),
        _X.FlattenBuffer(),
        _X.NarrowDataType(32),
        _X.VectorizeLoop(True),
        _X.UnrollLoop(),
        _X.StorageRewrite(),
        _X.RemoveNoOp(),
    ]
)


def lower_gpu(func: Any) -> Any:
    """One kernel as a PrimFunc on pointers: threads as `thread_extent`, memory as `local` and `shared` arrays."""
    (lowered,) = _GPU_PASSES(tvm.IRModule({"kernel": func})).functions.values()
    (lowered,) = _X.LowerIntrin()(tvm.IRModule({"kernel": _plain_pointers(lowered)})).functions.values()
    return lowered


def lower_cpu(funcs: dict[str, Any], target: dict[str, Any]) -> Any:
    """The kernels `funcs` (name: PrimFunc) as one TVM module of C functions `void name(T *p0, …, int32 lo, int32
    hi)`.

    `target` is TVM's llvm target as a dict. The result has `write_to_file(path, "o")` and `inspect_source("ll" |
    "asm")`.
    """
    tvm_target = TvmTarget(target)
    mod = tvm.IRModule(dict(funcs.items()))
    mod = _PASSES(_X.BindTarget(tvm_target)(mod))
    mod = tvm.IRModule({var: _plain_pointers(func) for var, func in mod.functions.items()})
    mod = _X.LowerIntrin()(mod)
    return tvm.get_global_func("target.build.llvm")(mod, tvm_target)


def _plain_pointers(func: Any) -> Any:
    """`func` with each buffer parameter as a pointer that the body declares the buffer on."""
    params, declarations = [], []
    for p in func.params:
        if isinstance(p.ty, ir.PrimType):
            params.append(p)
            continue
        pointer = tirx.Var(p.name + "_ptr", ir.PointerType(ir.PrimType(str(p.ty.dtype)), "global"))
        params.append(pointer)
        declarations.append(tirx.DeclBuffer(p, data=pointer))
    body = tirx.SeqStmt([*declarations, func.body])
    plain = tirx.PrimFunc(params, body, ret_type=ir.TupleType([]))
    for key, value in func.attrs.items():
        plain = plain.with_attr(key, value)
    return plain
