"""What is 2 + 3 * 4? A plain service: no data, no model; the same releases, checks, canary and revert as any other app."""

import ast
import operator

from staytrue import App

app = App("calculator")

OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
LONGEST = 200


@app.predict(
    examples=[
        {"expression": "2 + 3 * 4"},
        {"expression": "(2 + 3) * 4"},
        {"expression": "-7 / 2"},
        {"expression": "2 ** 0.5"},
    ]
)
def calculate(rows):
    """One number for each expression."""
    return [value_of(row["expression"]) for row in rows]


def value_of(expression):
    """The value of an expression of numbers, + - * / ** and parentheses; anything else is a ValueError."""
    if len(expression) > LONGEST:
        raise ValueError(f"{len(expression)} characters; at most {LONGEST} are read")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError:
        raise ValueError(f"{expression!r} is no expression") from None
    value = _computed(tree.body)
    if isinstance(value, complex):
        raise ValueError(f"{expression!r} is no real number")  # noqa: TRY004 - the expression is at fault, not its type
    return value


def _computed(node):
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_computed(left), _computed(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATORS:
            return OPERATORS[type(op)](_computed(operand))
    raise ValueError(f"{ast.unparse(node)!r} is no number and no operation of + - * / **")
