"""Checks the functions of recorded tasks before TVM reads them.

TVM's reader of JSON checks nothing: a node of the wrong kind, or one without a field, becomes a null pointer in C++. So
a recorded function is compared with the grammar below. The grammar has the parts of tasks' functions, and no calls of
other functions. A function of other parts is refused; programs of such tasks have no closed form anyway.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from tilewright.errors import SpaceError
from tilewright.reading import parse_json
from tilewright.task import Task
from tilewright.vector_instructions import RECIPROCAL

__all__ = ["check_recorded"]

#: A node of the JSON, or its fields by name. What they hold is not known before the grammar has been asked.
Fields: TypeAlias = dict[str, Any]

#: Limits of a function: characters, depth in nodes, and nodes when it is written out as a tree. The largest function of
#: 373 tasks of six networks has 73,000 characters, is 45 nodes deep, and has 8,814 nodes.
_MOST_CHARACTERS, _MOST_DEPTH, _MOST_WRITTEN_OUT = 1 << 23, 300, 1 << 19
#: The largest extent: kernels have 32-bit indices.
_LARGEST = 2**31 - 1

_BINARY = ["Add", "Sub", "Mul", "Div", "Mod", "FloorDiv", "FloorMod", "Min", "Max", "EQ", "NE", "LT", "LE", "GT", "GE"]
_BINARY += ["And", "Or", "LShift", "RShift", "BitwiseAnd"]
_GROUPS = {
    "Expr": ["ir.IntImm", "ir.FloatImm", "ir.Var", "ir.TensorLoad", "ir.Call", "prim.Cast", "prim.Select", "prim.Let"]
    + ["prim.Not"]
    + [f"prim.{name}" for name in _BINARY],
    "Stmt": ["tirx.For", "tirx.SeqStmt", "tirx.BufferStore", "s_tir.SBlockRealize"],
    "Simple": ["ffi.String", "int", "bool"],
    "Null": ["None"],
    "Init": ["None", "tirx.BufferStore"],
}
#: The fields of each kind of node, and what a field may hold: a kind, a group, a list of these ([...]), or a number or
#: text in place (int, float, bool, dtype). Every node except the containers may have a span, which is None.
_FORMS = {
    "ir.IntImm": "value:int! ty:ir.PrimType",
    "ir.FloatImm": "value:float ty:ir.PrimType",
    "ir.PrimType": "dtype:dtype",
    "ir.Type": "",
    "ir.TupleType": "fields:[]",
    "ir.Var": "name:ffi.String ty:ir.PrimType|tirx.BufferType",
    "ir.GlobalVar": "name_hint:ffi.String ty:ir.Type",
    "ir.Call": "op:ir.Op args:[Expr] attrs:None ty_args:[] ty:ir.PrimType",
    "ir.Range": "min:Expr extent:ir.IntImm",
    "ir.TensorLoad": "source:ir.Var indices:[Expr] ty:ir.PrimType",
    "ir.TensorRegion": "source:ir.Var region:[ir.Range] ty:tirx.BufferRegionType",
    "ir.DictAttrs": "__dict__:{Simple}",
    "ir.SourceMap": "source_map:{}",
    "ir.IRModule": "functions:{tirx.PrimFunc} global_var_map_:{ir.GlobalVar} source_map:ir.SourceMap "
    "attrs:ir.DictAttrs global_infos:{}",
    "prim.Cast": "value:Expr ty:ir.PrimType",
    "prim.Let": "var:ir.Var value:Expr body:Expr ty:ir.PrimType",
    "prim.Not": "a:Expr ty:ir.PrimType",
    "prim.Select": "condition:Expr true_value:Expr false_value:Expr ty:ir.PrimType",
    "relax.FuncType": "params:[relax.TensorType] ret:ir.TupleType derive_func:None purity:bool",
    "relax.ShapeType": "values:[ir.IntImm] ndim:int",
    "relax.TensorType": "shape:relax.expr.ShapeExpr dtype:ir.PrimType vdevice:None ndim:int",
    "relax.expr.ShapeExpr": "values:[ir.IntImm] ty:relax.ShapeType",
    "tirx.BufferRegionType": "",
    "tirx.BufferType": "dtype:ir.PrimType storage_scope:ffi.String shape:[ir.IntImm] strides:[] elem_offset:ir.IntImm "
    "data_alignment:int offset_factor:int layout:None allocated_addr:[]",
    "tirx.BufferStore": "buffer:ir.Var value:Expr indices:[Expr]",
    "tirx.For": "loop_var:ir.Var min:ir.IntImm extent:ir.IntImm kind:int body:Stmt thread_binding:None "
    "annotations:{Simple} step:None",
    "tirx.IterVar": "dom:ir.Range var:ir.Var iter_type:int thread_tag:ffi.String",
    "tirx.SeqStmt": "seq:[Stmt]",
    "tirx.PrimFunc": "params:[ir.Var] ret_type:ir.TupleType body:s_tir.SBlockRealize attrs:ir.DictAttrs "
    "ty:relax.FuncType",
    "s_tir.SBlock": "iter_vars:[tirx.IterVar] reads:[ir.TensorRegion] writes:[ir.TensorRegion] name_hint:ffi.String "
    "alloc_buffers:[ir.Var] match_buffers:[] annotations:{Simple} init:Init body:Stmt",
    "s_tir.SBlockRealize": "iter_values:[Expr] predicate:ir.IntImm block:s_tir.SBlock",
    **{f"prim.{name}": "a:Expr b:Expr ty:ir.PrimType" for name in _BINARY},
}
_FIELDS = {kind: dict(field.split(":") for field in form.split()) for kind, form in _FORMS.items()}
_DTYPE = re.compile(r"bool|bfloat16|float(16|32|64)|u?int(8|16|32|64)")
#: The operators that may be called. All are arithmetic: no other functions, no addresses, no instructions.
_OPERATORS = re.compile(
    r"(prim|tirx|tir)\.(if_then_else|likely|reinterpret|exp2?|log(2|10|1p)?|sqrt|rsqrt|tanh?|sinh?|cosh?|erf|sigmoid|pow|fabs"
    r"|floor|ceil|round|trunc|nearbyint|fmod|isnan|isinf|isfinite|max_value|min_value|infinity"
    r"|shift_(left|right)|bitwise_(and|or|xor|not))|" + re.escape(RECIPROCAL)
)


def check_recorded(task: Task) -> None:
    """Refuse a task whose function might crash TVM.

    Raises:
        SpaceError: its text is no module of one function that consists of loops, blocks and arithmetic.
    """
    try:
        _Module(parse_json(task.ir, _MOST_CHARACTERS, infinite=True)).check()
    except (ValueError, TypeError, LookupError, AttributeError) as exc:
        raise SpaceError(
            f"the function of {task.name[:80]!r} in the records is none that a task has, or damaged: {str(exc)[:200]}; "
            "tune its network again, which writes it anew"
        ) from exc


class _Module:
    """TVM's JSON: a list of nodes. Each names others by their places, and comes after them."""

    def __init__(self, document: Fields) -> None:
        nodes = document["nodes"]
        if not isinstance(nodes, list) or document["root_index"] != len(nodes) - 1:
            raise ValueError("its root is not the last node")
        self.nodes: list[Fields] = nodes

    def check(self) -> None:
        depths: list[int] = []
        sizes: list[int] = []
        for place, node in enumerate(self.nodes):
            children = self._children(place, node)
            depths.append(1 + max((depths[child] for child in children), default=0))
            sizes.append(1 + sum(sizes[child] for child in children))
            if depths[-1] > _MOST_DEPTH or sizes[-1] > _MOST_WRITTEN_OUT:
                raise ValueError("it is nested too deeply, or its parts within parts are too many")
        root = self._fields(len(self.nodes) - 1, "ir.IRModule")
        functions = self.nodes[root["functions"]]["data"]
        if len(functions) != 2 or self._kind(functions[0]) != "ir.GlobalVar" or self._name(functions[0]) != "main":
            raise ValueError("a task's module has one function, called main")

    def _children(self, place: int, node: Fields) -> Sequence[int]:
        """The places that a node names, once all of its fields are checked."""
        kind: str = node["type"]
        data: Any = node.get("data")
        if kind in ("ffi.Array", "ffi.Map"):
            self._places(data, place)
            if kind == "ffi.Map" and len(data) % 2:
                raise ValueError("a key has no value")
            return list(data)
        if kind in _FIELDS:
            return self._object(place, kind, data)
        simple: dict[str, Callable[[object], bool]] = {
            "None": lambda value: value is None,
            "bool": lambda value: type(value) is bool,
            "int": lambda value: type(value) is int and abs(value) < 2**63,
            "ffi.String": lambda value: isinstance(value, str) and len(value) < 10_000,
            "ir.Op": lambda value: isinstance(value, str) and bool(_OPERATORS.fullmatch(value)),
        }
        if kind not in simple or not simple[kind](data):
            raise ValueError(f"a node {kind!r:.40} is none that a task has, or holds {data!r:.60}")
        return ()

    def _object(self, place: int, kind: str, data: Fields) -> list[int]:
        fields = _FIELDS[kind]
        if data.keys() - {"span"} != fields.keys():
            raise ValueError(f"{kind} has {', '.join(fields)}, but here {', '.join(sorted(data))[:80]}")
        if "span" in data:
            self._expect(data["span"], "None", place)
        children = []
        for name, form in fields.items():
            value = data[name]
            if form in ("int", "float", "bool", "dtype"):
                self._inline(value, form)
            elif form[0] in "[{":
                self._container(value, form, place)
                children.append(value)
            else:
                self._expect(value, "int" if form == "int!" else form, place)
                children.append(value)
        extra = getattr(self, "_check_" + kind.rpartition(".")[2], None)
        if extra is not None:
            extra(data)
        return children

    def _inline(self, value: object, form: str) -> None:
        right = {
            "int": type(value) is int and -1 <= value <= _LARGEST,
            "float": type(value) in (int, float),
            "bool": type(value) is bool,
            "dtype": isinstance(value, str) and bool(_DTYPE.fullmatch(value)),
        }
        if not right[form]:
            raise ValueError(f"a {form} is expected where {value!r:.60} is")

    def _container(self, place: int, form: str, before: int) -> None:
        kind = "ffi.Array" if form[0] == "[" else "ffi.Map"
        self._expect(place, kind, before)
        items = self.nodes[place]["data"]
        wanted = form[1:-1]
        if items and not wanted:
            raise ValueError("something stands where a task has nothing")
        if kind == "ffi.Map":
            keys = "ir.GlobalVar" if wanted == "tirx.PrimFunc" else "ffi.String"
            for key in items[::2]:
                self._expect(key, keys, before)
            items = items[1::2]
        for item in items:
            self._expect(item, wanted, before)

    def _expect(self, place: int, wanted: str, before: int) -> None:
        """Raise if the node at a place is of another kind, or not before the node that names it."""
        self._places([place], before)
        kinds = [kind for part in wanted.split("|") for kind in _GROUPS.get(part, [part])]
        if self._kind(place) not in kinds:
            raise ValueError(f"{wanted} is expected where {self._kind(place)} is")

    def _places(self, places: object, before: int) -> None:
        if not isinstance(places, list) or any(type(place) is not int or not 0 <= place < before for place in places):
            raise ValueError(f"a node names nodes before it, but this is {places!r:.60}")

    def _kind(self, place: int) -> str:
        return str(self.nodes[place]["type"])

    def _fields(self, place: int, kind: str) -> Fields:
        if self._kind(place) != kind:
            raise ValueError(f"{kind} is expected where {self._kind(place)} is")
        return dict(self.nodes[place]["data"])

    def _name(self, place: int) -> str:
        return str(self.nodes[self._fields(place, "ir.GlobalVar")["name_hint"]]["data"])

    def _items(self, place: int) -> list[int]:
        return list(self.nodes[place]["data"])

    def _int(self, place: int) -> int:
        return int(self.nodes[self._fields(place, "ir.IntImm")["value"]]["data"])

    def _dtype(self, place: int) -> str:
        """The dtype of an expression."""
        return str(self.nodes[self.nodes[place]["data"]["ty"]]["data"].get("dtype"))

    # How the fields of one node must fit together.

    def _check_BufferType(self, data: Fields) -> None:  # noqa: N802  named after the node
        if not all(1 <= self._int(extent) <= _LARGEST for extent in self._items(data["shape"])):
            raise ValueError("a buffer has an extent below 1, or too large")
        if data["data_alignment"] < 1 or data["offset_factor"] < 1 or self._int(data["elem_offset"]):
            raise ValueError("a buffer does not begin where it should")

    def _check_IntImm(self, data: Fields) -> None:  # noqa: N802
        dtype = self.nodes[data["ty"]]["data"]["dtype"]
        value, bits = self.nodes[data["value"]]["data"], int(dtype.lstrip("uint") or 0) if "int" in dtype else 1
        if "float" in dtype or not -(2 ** (bits - 1)) <= value < 2**bits:
            raise ValueError(f"{value} is no {dtype}")

    def _check_FloatImm(self, data: Fields) -> None:  # noqa: N802
        if "float" not in self.nodes[data["ty"]]["data"]["dtype"]:
            raise ValueError("a float has the type of an integer")

    def _check_access(self, var: int, indices: int) -> None:
        kind = self._fields(var, "ir.Var")["ty"]
        if len(self._items(self._fields(kind, "tirx.BufferType")["shape"])) != len(self._items(indices)):
            raise ValueError("a buffer is read or written with another number of indices than it has")

    def _check_TensorLoad(self, data: Fields) -> None:  # noqa: N802
        self._check_access(data["source"], data["indices"])

    def _check_BufferStore(self, data: Fields) -> None:  # noqa: N802
        self._check_access(data["buffer"], data["indices"])

    def _check_TensorRegion(self, data: Fields) -> None:  # noqa: N802
        self._check_access(data["source"], data["region"])

    def _check_For(self, data: Fields) -> None:  # noqa: N802
        self._check_scalar(data["loop_var"])
        if not 1 <= self._int(data["extent"]) <= _LARGEST or self._int(data["min"]) or not 0 <= data["kind"] <= 3:
            raise ValueError("a loop has an extent below 1, or too large, or does not begin at 0")

    def _check_IterVar(self, data: Fields) -> None:  # noqa: N802
        self._check_scalar(data["var"])
        if not 0 <= data["iter_type"] <= 3:
            raise ValueError("an iterator is of no kind")

    def _check_scalar(self, var: int) -> None:
        if self._kind(self._fields(var, "ir.Var")["ty"]) != "ir.PrimType" or "int" not in self._dtype(var):
            raise ValueError("an iterator is no integer")

    def _check_SBlockRealize(self, data: Fields) -> None:  # noqa: N802
        block = self._fields(data["block"], "s_tir.SBlock")
        if len(self._items(data["iter_values"])) != len(self._items(block["iter_vars"])):
            raise ValueError("a block has another number of iterators than of values for them")

    def _check_SBlock(self, data: Fields) -> None:  # noqa: N802
        for var in self._items(data["alloc_buffers"]):
            self._fields(self._fields(var, "ir.Var")["ty"], "tirx.BufferType")

    def _check_PrimFunc(self, data: Fields) -> None:  # noqa: N802
        params = self._items(data["params"])
        for var in params:
            self._fields(self._fields(var, "ir.Var")["ty"], "tirx.BufferType")
        if not params or len(self._items(self._fields(data["ty"], "relax.FuncType")["params"])) != len(params):
            raise ValueError("a function has another number of parameters than its type")

    def _check_TensorType(self, data: Fields) -> None:  # noqa: N802
        shape = self._fields(data["shape"], "relax.expr.ShapeExpr")
        if len(self._items(shape["values"])) != data["ndim"]:
            raise ValueError("a tensor's type has another number of dimensions than its shape")

    def _check_divisor(self, data: Fields) -> None:
        if "int" in self._dtype(data["a"]) and (self._kind(data["b"]) != "ir.IntImm" or self._int(data["b"]) < 1):
            raise ValueError("integers are divided by constants from 1 up")

    _check_FloorDiv = _check_FloorMod = _check_Div = _check_Mod = _check_divisor  # noqa: N815
