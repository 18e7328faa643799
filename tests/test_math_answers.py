r"""Math answers as a careful human grader judges them, decided before and without the code that is judged.

The grader is exact about values (0.33 is not 1/3) and generous about spelling (`\dfrac12` is 1/2), accepts an answer
that leaves out the unit but none with another unit, and accepts no answer that names several candidates. Pairs
on which careful graders differ are left out: 100 mm for 10 cm, 6:4 for 3:2, 50% for 50, 1,2 for (1,2).
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from envs.verifiers import verify_math

COLUMN = r"\begin{pmatrix} -2 \\ -14 \\ -7 \end{pmatrix}"
SQUARE = r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"

# fmt: off
# By category: (gold, answers that are right, answers that are wrong).
JUDGED: dict[str, list[tuple[str, list[str], list[str]]]] = {
    "integer": [
        ("18", ["18", "18.00", " 18 ", "+18", "18."], ["18.5", "-18", "81", "180", "17.99", "018.1"]),
        ("0", ["0", "0.0"], ["1", "0.001", "O"]),
        ("1000000007", ["1000000007", "1000000007.0"], ["1000000008", "1000000000"]),
        ("123456789012345678901", ["123456789012345678901"], ["123456789012345678902", "123456789012345678900"]),
    ],
    "decimal": [
        ("0.5", [".5", "0.50", "1/2"], ["5", "0.05", "-.5", "0.6"]),
        ("-3.75", ["-3.750", "-15/4"], ["3.75", "-3.57", "-3.7"]),
        ("3.21", ["3.210", "321/100"], ["3.2", "3.12", "321"]),
        (".0000672", ["0.0000672", "0.00006720"], ["0.000672", "0.00000672", "0"]),
        ("326.5", ["326.5", "653/2"], ["326", "327", "326.51"]),
    ],
    "fraction": [
        (r"\frac{1}{2}", ["0.5", "1/2", r"\dfrac12", r"\tfrac{1}{2}", r"\frac12", "2/4", "1 / 2", r"\frac{3}{6}"],
            ["2", "0.05", "-1/2", "1/3", "12", r"\frac{2}{1}", "0.49"]),
        (r"\frac43", ["4/3", r"\frac{4}{3}", r"\frac{8}{6}", r"\frac4{3}"], ["3/4", "43", "1.33", "-4/3"]),
        (r"\frac{1}{3}", ["1/3", r"\frac13", "3^{-1}"], ["0.33", "0.333", "3", "0.3"]),
        (r"\frac 59", ["5/9", r"\frac{5}{9}"], ["59", "9/5"]),
        (r"-\frac{24}{25}", ["-24/25", r"\frac{-24}{25}", "-0.96", r"\frac{24}{-25}"], ["24/25", "0.96", "-25/24"]),
        (r"\frac{2}{1005}", ["2/1005", r"\frac{4}{2010}"], ["2/1006", "0.002"]),
        (r"\frac{1}{\frac{2}{3}}", ["3/2", "1.5"], ["2/3", "1/6"]),
        ("7", [r"\frac{7}{1}", r"\frac{21}{3}"], ["1/7", r"\frac{3}{21}"]),
    ],
    "mixed number": [
        (r"1\frac{1}{2}", ["3/2", "1.5", "1 1/2", r"1 \frac12", r"1\dfrac{1}{2}"],
            ["1/2", "11/2", r"1\frac{1}{3}", "1.2", "2 1/2"]),
        (r"137 \frac{1}{2}", ["137.5", "275/2", "137 1/2"], ["137/2", "68.5", "137", "1371/2"]),
        (r"-2\frac{1}{4}", ["-9/4", "-2.25", "-2 1/4"], ["-7/4", "-1.75", "2.25"]),
        (r"\frac{7}{2}", [r"3\frac{1}{2}", "3 1/2"], [r"3\frac{1}{4}", "2 1/3", r"3 \cdot \frac{1}{2}"]),
    ],
    "sign": [
        ("-5", ["−5", "-5.0", "- 5", "{-5}", "(-5)"], ["5", "+5", "--5", "5-", "−6"]),
        ("-128", ["−128", "-2^7", "(-2)^7"], ["128", "(-2)^8", "−12.8"]),
        (r"-\sqrt{3}", [r"−\sqrt{3}", "-3^{1/2}"], [r"\sqrt{3}", r"\sqrt{-3}", "-3"]),
        ("9", ["(-3)^2", "-(-9)", "5 − −4"], ["-3^2", "5 − 4"]),
    ],
    "thousands": [
        ("1,234", ["1234", "1{,}234", r"1\,234", r"1,\!234", "1234.0"],
            ["12,34", "123,4", "234", "1,2345", "1,235"]),
        ("1234", ["1,234", "1{,}234", r"1\,234"], ["12,34", "1,23,4", "1,2,3,4"]),
        (r"10,\!080", ["10080", "10,080"], ["10,80", "1008", "10"]),
        ("58,500", ["58500", "58{,}500", "$58,500$"], ["5850", "58,5000", "58", "500,58"]),
        (r"11,\! 111,\! 111,\! 100", ["11111111100", "11,111,111,100"],
            ["1111111110", "11,111,111,101", "11,111,111"]),
        ("1000000", ["1,000,000", "1,000,000.00"], ["1,000,00", "1,000", "1,000,001"]),
    ],
    "currency": [
        (r"\$18", ["18", "$18.00", "18 dollars", r"\$18.00", r"18\text{ dollars}", r"\$ 18"],
            ["18 cents", r"\$18.50", r"\$81", "180 dollars", "0.18"]),
        (r"\$32,\!348", ["32348", "32,348", r"\$32,348", "$32348", "32348 dollars"], ["32,384", r"\$323.48", "32"]),
        (r"\$18.90", ["18.9", "18.90", "$18.90", "18.90 dollars"], ["18.09", "189", r"\$1.89", "18.90 cents"]),
        (r"5.4 \text{ cents}", ["5.4", "5.4 cents"], [r"\$5.4", "5.4 dollars", "54"]),
        ("18", [r"\$18", "$18", "18 dollars", "€18", "£18"], [r"\$81", "$18.50", "19 dollars", "€19"]),
    ],
    "percent": [
        (r"50\%", ["50", "50%", "0.5", "1/2", "50 percent", r"50\text{ percent}"],
            ["5%", "0.5%", "500", "0.05", "5000%", "51%"]),
        ("50%", [r"50\%", "50"], [r"51\%", r"-50\%"]),
        ("50", ["50.0"], ["0.5", r"5\%"]),  # without a sign in the gold answer there is no percent to convert
        (r"12.5\%", ["12.5%", "12.5", "0.125"], ["12%", "1.25", "125%", "0.0125"]),
        ("0.5", ["50%", r"50\%"], ["50", "5%", "0.5%"]),
        (r"\frac{1}{4}", [r"25\%"], ["25", r"2.5\%", r"0.25\%"]),
    ],
    "degrees": [
        (r"90^\circ", ["90", "90 degrees", "90°", r"90^{\circ}", r"90\text{ degrees}"],
            ["9", "80°", "180 degrees", r"45^\circ", "90 radians"]),
        (r"145^\circ", ["145", "145°"], ["35°", "145.5", r"-145^\circ"]),
        (r"\frac{270}7\text{ degrees}", ["270/7", r"\frac{270}{7}^\circ", "270/7 degrees", r"38\frac{4}{7}"],
            ["27/7", "38.57", "270", "7/270"]),
        ("30", [r"30^\circ", "30 degrees"], [r"60^\circ", "30.5 degrees"]),
    ],
    "unit": [
        (r"10\text{ cm}", ["10", "10 cm", r"10\text{cm}", r"10\mathrm{ cm}", r"10\,\text{cm}", "10 centimeters"],
            ["10 m", "11 cm", "100 cm", "10 km", "cm"]),
        (r"864 \mbox{ inches}^2", ["864", r"864 \text{ inches}^2", "864 square inches"],
            ["846", "864^2", "864 square feet"]),
        (r"15\mbox{ cm}^2", ["15", "15 cm^2", r"15\text{ cm}^2"], ["225", "15 m^2", "51 cm^2"]),
        ("10", ["10 cm", "10 apples", r"10\text{ meters}"], ["100 cm", "1 apple", "apples"]),
        (r"3 \text{ hours}", ["3", "3 hours"], ["3 minutes", "30 hours", "3 days"]),
        (r"60 \text{ mph}", ["60", "60 mph"], ["6 mph", "60 km/h"]),
    ],
    "root": [
        (r"2\sqrt{3}",
            [r"\sqrt{12}", "sqrt(12)", "2*sqrt(3)", r"2 \cdot \sqrt{3}", r"\frac{6}{\sqrt{3}}", r"2\sqrt3", "2√3"],
            ["3.46", "3.4641", r"\sqrt{3}", r"\sqrt{6}", r"3\sqrt{2}", "6", r"2\sqrt[3]{3}"]),
        (r"11\sqrt2", [r"11\sqrt{2}", r"\sqrt{242}"], [r"\sqrt{22}", "11", "15.56"]),
        (r"\frac{\sqrt{3}}{3}", [r"\frac{1}{\sqrt{3}}", r"\sqrt{3}/3", r"\sqrt{\frac{1}{3}}"],
            [r"\sqrt{3}", "1/3", "0.577"]),
        (r"1+2\sqrt{3}", [r"2\sqrt{3}+1", r"1+\sqrt{12}"], [r"3\sqrt{3}", r"2+\sqrt{3}", r"1-2\sqrt{3}", "4.46"]),
        (r"\sqrt[3]{2}", ["2^{1/3}", r"2^{\frac13}"], [r"\sqrt{2}", r"3\sqrt{2}", "1.26"]),
        (r"\sqrt{2}+\sqrt{3}", [r"\sqrt{3}+\sqrt{2}", r"\sqrt{5+2\sqrt{6}}"],
            [r"\sqrt{5}", r"\sqrt{6}", r"\sqrt{5+\sqrt{6}}"]),
        ("3", [r"\sqrt{9}", r"\sqrt[3]{27}", "9^{1/2}"], [r"\pm 3", r"\sqrt{3}", r"\sqrt[3]{9}"]),
    ],
    "power": [
        ("2^{10}", ["1024", "4^5", "2^10"], ["210", "20", "2^{11}", "10^2"]),
        ("1024", ["2^{10}", "32^2"], ["2^{1}0", "2^{10} - 1"]),
        ("10^{-3}", ["0.001", "1/1000", r"\frac{1}{10^3}"], ["-1000", "0.01", "10^3"]),
        (r"3^{20}", ["9^{10}", "3486784401"], ["3^{21}", "3486784400", "20^3", "60"]),
    ],
    "pi": [
        (r"12\pi", [r"12 \pi", "12π", "12*pi", r"\pi \cdot 12"],
            ["37.7", "12", r"\pi", r"21\pi", r"12\pi^2", "37.699"]),
        (r"\frac{20000}{\pi}", [r"20000/\pi"], [r"20000\pi", "6366", r"\frac{\pi}{20000}"]),
        (r"18+2\pi", [r"2\pi+18", r"2(\pi+9)"], [r"20\pi", r"18-2\pi", "24.28", r"18+2\phi"]),
        (r"\pi", ["π", "pi", r"\frac{2\pi}{2}"], ["3.14", "22/7", "3.14159", "p"]),
        (r"\frac{\pi}{2}", [r"\pi/2", r"0.5\pi", r"\frac{1}{2}\pi"], [r"\pi", "1.57", r"\frac{2}{\pi}", "90"]),
        (r"-\frac{\pi}{6}", [r"-\pi/6", r"\frac{-\pi}{6}"], [r"\pi/6", r"-\pi/3"]),
    ],
    "scientific": [
        (r"3\times10^5", ["300000", "3e5", "300,000", r"3 \cdot 10^5", r"3\times 10^{5}", "3 * 10^5", "3 × 10^5"],
            [r"3\times10^4", "30000", "3^5", "3000000", r"3\times 10^{-5}", "35"]),
        (r"6.72\times 10^{-5}", [".0000672", "6.72e-5", r"67.2 \times 10^{-6}"],
            [r"6.72\times 10^5", "0.000672", "6.72"]),
        ("602200000000000000000000", [r"6.022\times10^{23}"], [r"6.022\times10^{22}", r"6.02 \times 10^{23}"]),
        ("1500", ["1.5e3", r"1.5\times 10^3"], ["1.5e2", r"1.5\cdot 3^{10}"]),
    ],
    "complex": [
        ("3+4i", ["4i+3", "3 + 4i", r"3+4 \cdot i"], ["3-4i", "4+3i", "7", "7i", "5"]),
        ("6 - 5i", ["-5i+6"], ["6+5i", "5-6i", "1"]),
        ("-i", [r"\frac{1}{i}", "i^3"], ["i", "-1"]),
        (r"\frac{1+i}{2}", [r"\frac{1}{2}+\frac{i}{2}", "0.5+0.5i", "(1+i)/2"],
            [r"\frac{1-i}{2}", "1+i", r"\frac12"]),
        ("5-i", ["(3+2i)(1-i)"], ["(3+2i)(1+i)", "5"]),  # 3 - 3i + 2i + 2
        (r"\sqrt{2}i", [r"i\sqrt{2}", r"\sqrt{-2}"], [r"\sqrt{2}", r"-i\sqrt{2}", "2i"]),
    ],
    "polynomial": [
        ("x^2+2x+1", ["(x+1)^2", "1+2x+x^2", "x(x+2)+1", "(1+x)(x+1)"],
            ["x^2+2x", "(x-1)^2", "x^2+2x+2", "y^2+2y+1", "4"]),  # 4 is its value at 1
        ("2x", ["x*2", "x+x", r"2 \cdot x"], ["x^2", "2", "x", "2y", "x+2"]),
        ("x+1", ["1+x"], ["y+1", "x-1"]),
        ("p - q", ["-q+p", "-(q-p)"], ["q-p", "p+q", "pq"]),
        ("6r^2-4r-24", ["2(3r^2-2r-12)", "-24-4r+6r^2"], ["6r^2-4r+24", "3r^2-2r-12", "6x^2-4x-24"]),
        ("x^5 - x^4 + x^3 - x^2 + x - 1", ["(x-1)(x^4+x^2+1)"], ["x^5-1", "(x+1)(x^4+x^2+1)"]),
        ("15x - 80", ["5(3x-16)", "-80+15x"], ["15x+80", "3x-16", "15-80x", "-65"]),
        ("5r^5", ["5 r^5", "5r^2r^3"], ["r^5", "5r^4", "(5r)^5"]),
    ],
    "expression": [
        (r"\frac{11+9a}{20}", ["(11+9a)/20", r"\frac{11}{20}+\frac{9a}{20}", "0.55+0.45a"],
            [r"\frac{11-9a}{20}", "a", "11+9a/20", r"\frac{20}{11+9a}"]),
        ("(a+5)(b+2)", ["ab+2a+5b+10", "(b+2)(a+5)"], ["ab+10", "(a+2)(b+5)"]),
        (r"\frac{xy}{x+y}", ["xy/(x+y)", r"\frac{1}{\frac1x+\frac1y}"],
            [r"\frac{x+y}{xy}", "xy/x+y", r"\frac{xy}{x-y}"]),
        ("a^2-b^2", ["(a-b)(a+b)"], ["(a-b)^2", "b^2-a^2"]),
        (r"\frac{1}{x}-\frac{1}{x+1}", [r"\frac{1}{x(x+1)}"], [r"\frac{1}{x+1}", r"\frac{1}{x^2+1}"]),
        ("e^{2x}", ["(e^x)^2", "e^{x+x}"], ["e^{x^2}", "2e^x"]),
        ("x_1+x_2", ["x_2+x_1", "x_{1}+x_{2}"], ["x_1-x_2", "2x", "x_1+x_3"]),
        ("n(n+1)/2", [r"\frac{n(n+1)}{2}", r"\frac{n^2+n}{2}"], [r"\frac{n(n-1)}{2}", r"\frac{n+1}{2}"]),
    ],
    "equation": [
        ("x=5", ["5", "x = 5", "5=x"], ["x=-5", "6", "x=6"]),
        ("5", ["x = 5", "n=5"], ["x=6", "5x", "x"]),
        ("y = 2x+3", ["y=3+2x", "2x - y + 3 = 0", "2x+3=y", "y - 2x = 3"],
            ["y=2x", "y=3x+2", "y=2x-3", "x=2y+3", "y+2x+3=0"]),
        ("y = -2x", ["2x+y=0"], ["y=2x", "y=-2"]),
        ("5x - 7y + 11z + 4 = 0", ["11z+5x-7y+4=0", "5x - 7y + 11z = -4"],
            ["5x - 7y + 11z - 4 = 0", "5x+7y+11z+4=0"]),
        ("x^2+y^2=25", ["y^2+x^2=25", "25=x^2+y^2", "x^2+y^2-25=0"], ["x^2+y^2=5", "x^2-y^2=25", "x+y=5"]),
        ("f(x) = x^2+1", ["f(x)=1+x^2"], ["f(x)=x^2-1", "f(x)=1"]),
    ],
    "inequality": [
        ("x>3", ["3<x", "x > 3"], [r"x\ge3", "x<3", "3>x", "x>4", "3", "x=3"]),
        (r"x \ge 3", [r"3 \le x", r"x \geq 3", "x>=3", "x ≥ 3"], ["x>3", r"x\le 3", r"x \ge -3"]),
        ("-1 < x < 2", ["-1<x<2", "2>x>-1"], [r"-1<x\le 2", "-2<x<1", "x<2"]),
        (r"x \in [-2,7]", ["[-2,7]", r"-2 \le x \le 7"], ["(-2,7)", "[-2,7)", "-2 < x < 7"]),
        ("y < 2x+1", ["2x+1 > y"], ["y>2x+1", r"y \le 2x+1"]),
    ],
    "tuple": [
        ("(1,2)", ["(1, 2)", r"\left(1,2\right)", "(1.0,2)"], ["(2,1)", "(1,2,3)", "(1,3)", "1", "(12)", "(-1,2)"]),
        (r"\left( 3, \frac{\pi}{2} \right)", [r"(3,\pi/2)", r"(3, \frac{\pi}{2})"],
            [r"(3,\pi)", r"(\pi/2,3)", "(3,1.57)"]),
        ("(6,31,-1)", ["(6, 31, -1)"], ["(6,31,1)", "(31,6,-1)", "(6,31)", "(6,31,-1,0)"]),
        (r"\left(\frac{3}{2},-13\right)", ["(1.5,-13)", "(3/2, −13)"], ["(3/2,13)", "(2/3,-13)", "(-13,3/2)"]),
        ("(2x, x+1)", ["(x+x,1+x)"], ["(x+1,2x)", "(2x,x-1)"]),
        ("(1,2),(3,4)", ["(3,4),(1,2)", "(1,2) and (3,4)"], ["(1,2)", "(1,3),(2,4)", "(2,1),(4,3)"]),
    ],
    "list": [
        ("1,-2", ["-2, 1", "-2 and 1", "x=1 or x=-2", "1 and -2", "-2, 1.0"],
            ["1", "1, -2, 3", "1,2", "-1,2", "1 - 2"]),
        ("3, 5, 7", ["7,5,3", "3, 5 and 7", r"3, 5, \text{ and } 7"], ["3,5", "3,5,7,9", "357", "3,5,8", "15"]),
        (r"1 \pm \sqrt{19}", [r"1+\sqrt{19}, 1-\sqrt{19}", r"1 - \sqrt{19}, 1+\sqrt{19}", r"1\pm\sqrt{19}"],
            [r"1+\sqrt{19}", r"\pm\sqrt{19}", r"1\pm\sqrt{91}", r"1, \sqrt{19}", r"-1 \pm \sqrt{19}"]),
        (r"\pm 3", ["3,-3", "-3, 3", "3 or -3", r"x = \pm 3"], ["3", "-3", r"\pm 9", "3, 3"]),
        (r"\frac{1}{2}, 3", ["3, 0.5", "3,1/2"], ["0.5", "1/3, 2", "3.5"]),
        ("1000, 2000", ["2000, 1000"], ["10002000", "1000", "3000"]),
    ],
    "set": [
        (r"\{1,2\}", [r"\{2,1\}", r"\{1, 2\}", r"\left\{1,2\right\}", r"\{2, 1.0\}"],
            ["(1,2)", r"\{1\}", r"\{1,2,3\}", r"\{1,3\}", "3"]),
        (r"\{1\pm\sqrt{5},-2\}", [r"\{-2,1+\sqrt{5},1-\sqrt{5}\}", r"\{-2, 1 \pm \sqrt{5}\}"],
            [r"\{1+\sqrt{5},-2\}", r"\{1\pm\sqrt{5},2\}", r"\{1\pm\sqrt{5}\}", "-2"]),
        (r"\emptyset", [r"\varnothing", "∅", r"\{\}"], ["0", r"\{0\}", r"\{\emptyset\}"]),
        (r"\{-1,0,1\}", [r"\{1,0,-1\}"], [r"\{-1,1\}", "[-1,1]", r"\{-1,0,2\}"]),
        (r"\{\frac12, 3\}", [r"\{3, 0.5\}"], [r"\{\frac12\}", r"\{\frac13, 2\}"]),
    ],
    "interval": [
        ("[1,2)", ["[1, 2)", r"\left[1,2\right)", "[1.0,2)"], ["(1,2)", "[1,2]", "(1,2]", "[2,1)", "[1,3)"]),
        (r"(-\infty,3)\cup(5,\infty)",
            [r"(5,\infty)\cup(-\infty,3)", r"(-\infty, 3) \cup (5, \infty)", "(-∞,3)∪(5,∞)", "x<3 or x>5"],
            [r"(-\infty,3]\cup(5,\infty)", r"(-\infty,3)", "(3,5)", r"(-\infty,5)\cup(3,\infty)"]),
        (r"\left(\frac{3}{5},\frac{8}{3}\right]", ["(0.6,8/3]", r"(\frac35,\frac83]"],
            ["[3/5,8/3)", "(3/5,8/3)", "(0.6,2.67]"]),
        (r"(-\infty, 0]", [r"x \le 0"], [r"(-\infty,0)", r"[0,\infty)", r"(-\infty,\infty)", "0"]),
        (r"(-\sqrt{3}, \sqrt{3})", [r"(-\sqrt3,\sqrt3)"],
            [r"[-\sqrt{3},\sqrt{3}]", r"(\sqrt{3},-\sqrt{3})", "(-3,3)"]),
        (r"(0,9) \cup (9,36)", [r"(9,36)\cup(0,9)"], ["(0,36)", r"(0,9]\cup(9,36)", "(0,9)"]),
        (r"\left[ \frac{\pi^2}{8}, \frac{5 \pi^2}{4} \right]", [r"[\pi^2/8, 5\pi^2/4]"],
            [r"(\pi^2/8,5\pi^2/4)", r"[\pi/8,5\pi/4]"]),
        ("(3,4]", ["(3, 4]", r"\left(3, \frac{8}{2}\right]"], ["(3,4)", "[3,4)", "(3,5]"]),
    ],
    "matrix": [
        (COLUMN, [COLUMN, COLUMN.replace("pmatrix", "bmatrix"), r"\begin{pmatrix}-2\\-14\\-7\end{pmatrix}"],
            [r"\begin{pmatrix} -2 & -14 & -7 \end{pmatrix}", r"\begin{pmatrix} -2 \\ -7 \\ -14 \end{pmatrix}",
             r"\begin{pmatrix} -2 \\ -14 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 14 \\ 7 \end{pmatrix}", "-23"]),
        (SQUARE, [SQUARE.replace("pmatrix", "bmatrix"), SQUARE.replace("2", r"\frac{4}{2}")],
            [r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 & 3 & 4 \end{pmatrix}",
             SQUARE.replace("4", "5"), "-2"]),  # -2 is its determinant
        (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}",
            [r"\begin{pmatrix} 0.2 \\ -3.6 \end{pmatrix}",
             r"\begin{pmatrix} \frac{1}{5} \\ -\frac{18}{5} \end{pmatrix}"],
            [r"\begin{pmatrix} 1/5 \\ 18/5 \end{pmatrix}", r"\begin{pmatrix} -18/5 \\ 1/5 \end{pmatrix}"]),
        (r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}", [r"-\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}"],
            [r"\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}", "-1"]),
    ],
    "base": [  # an answer in base ten is no answer to a question that asks for another
        ("1011_2", ["1011_{2}", "1011_2"], ["1011_3", "1101_2", "11", "11_2"]),
        ("52_8", ["52_{8}", "$52_8$"], ["42", "25_8", "52_9"]),
        ("4210_{5}", ["4210_5", r"4210_{5}"], ["4210_6", "4201_5", "555"]),
    ],
    "text": [
        (r"\text{Monday}", ["Monday", "monday", r"\text{Monday}", r"\textbf{Monday}", "Monday."],
            ["Tuesday", "Sunday", "Monday or Tuesday", "1"]),
        (r"\text{(C)}", ["(C)", "C", r"\text{C}"], ["(B)", "D", "A, C", "3"]),
        (r"\text{(E)}", ["E", "(E)", r"\textbf{(E)}"], ["(A)", r"\text{(B)}", "e^1"]),
        (r"\text{even}", ["even", "Even"], ["odd", "neither", "even and odd"]),
        ("Yes", ["yes", r"\text{Yes}", "YES"], ["No", "Yes and no", "1"]),
        (r"\text{No}", ["no", "No."], ["Yes", "On"]),
        (r"\text{Evelyn}", ["Evelyn"], ["Navin", "Evelyn or Navin"]),
        (r"\text{east}", ["east", "East"], ["west", "seat", "southeast"]),  # no product of letters
        (r"\text{ellipse}", ["ellipse", "Ellipse"], ["hyperbola", "eclipse"]),
        (r"\text{March 5}", ["March 5"], ["March 6", "May 5", "5"]),
        (r"3:15\text{ p.m.}", ["3:15 p.m.", "3:15 pm"], ["3:16 p.m.", "3:15 a.m.", "15"]),
        (r"\text{not enough information}", ["not enough information"], ["enough information", "0"]),
    ],
    "ratio": [
        ("3:2", ["3:2", "3 : 2", "3/2", r"\frac{3}{2}"], ["2:3", "3:1", "2/3", "5", "3:2:1", "32"]),
        ("1:4", ["1:4", "1/4"], ["4:1", "4", "14"]),
        ("2:3:4", ["2:3:4", "2 : 3 : 4"], ["4:3:2", "2:3"]),
    ],
    "wrapper": [
        ("5", [r"\boxed{5}", "$5$", r"\(5\)", r"\[5\]", "$$5$$", "5.", "The answer is 5",
             "The answer is $5$.", r"\mathbf{5}", r"\displaystyle 5"],
            [r"\boxed{6}", "$6$", r"\(50\)", "The answer is 6", r"\mathbf{6}", "6.", r"\boxed{}", "$$",
             "The answer is"]),
        ("(1,2)", [r"\left( 1, 2 \right)", "$(1,2)$", r"\boxed{(1,2)}", r"(1,\,2)"],
            [r"\boxed{(2,1)}", "$(1,3)$", r"\left( 2, 1 \right)"]),
        (r"\frac{1}{2}",
            [r"\displaystyle\frac{1}{2}", r"$\frac{1}{2}$", r"\boxed{\dfrac{1}{2}}", r"\[ \frac{1}{2} \]",
             r"\frac{1}{2}."],
            [r"\boxed{\frac{1}{3}}", r"$\frac{2}{1}$", r"The answer is \frac{1}{3}.", r"\boxed{1}{2}"]),
        (r"\boxed{7}", ["7"], ["8"]),
        (r"\mathbf{12}", ["12"], ["21", "1, 2"]),
    ],
    "counting": [
        ("120", ["5!", r"5 \cdot 4 \cdot 3 \cdot 2 \cdot 1", r"\binom{10}{3}"], ["4!", "6!", r"\binom{10}{4}"]),
        ("10", [r"\binom{5}{2}", r"\dbinom{5}{3}", r"\frac{5!}{3!2!}"],
            [r"\binom{5}{1}", r"\frac{5}{2}", r"\binom{2}{5}"]),
        (r"\binom{10}{3}", ["120", r"\binom{10}{7}"], [r"\frac{10}{3}", "30", "103"]),
        ("5! - 4!", ["96", r"4 \cdot 4!"], ["1", "1!"]),  # 120 - 24
    ],
    "function": [
        ("3", [r"\log_2 8", r"\log_{10} 1000"], [r"\log_8 2", r"\log_2 9"]),
        (r"\frac{1}{2}", [r"\sin 30^\circ", r"\cos 60^\circ", r"\sin\frac{\pi}{6}"],
            [r"\cos 30^\circ", r"\tan 45^\circ"]),
        ("1", [r"\ln e", r"\tan 45^\circ"], [r"\ln 2", r"\log_5 1", "e", r"\sin x + \cos x"]),
        (r"\ln 2", [r"\frac{\ln 4}{2}", r"\ln(2)"], [r"\ln 3", "0.69", r"\log_{10} 2", "2"]),
        (r"\log_2 3", [r"\frac{\ln 3}{\ln 2}", r"\log_{2}(3)"], [r"\log_3 2", "1.58", r"\frac{\ln 2}{\ln 3}"]),
        (r"\frac{\sqrt{3}}{2}", [r"\sin 60^\circ"], [r"\sin 30^\circ", "0.87"]),
        (r"2\sin x\cos x", [r"\sin 2x", r"\sin(2x)"], [r"2\sin x", r"\cos 2x"]),
        (r"\cot x", [r"\frac{1}{\tan x}", r"\frac{\cos x}{\sin x}", r"\cot(x)"], [r"\tan x", r"\cot y", r"\cos x"]),
    ],
    "unsimplified": [
        ("18", [r"2 \cdot 9", "9 + 9", "2 * 9", "36/2", r"2 \times 3^2", "2(9)", "9 + 9 = 18"],
            [r"2 \cdot 8", "9+8", "29", "2 + 9", "(2)(8)", "9 + 10 = 19"]),
        ("7", ["3+4", r"28 \div 4"], [r"3 \cdot 4", "14/3", "3-4"]),
        ("0.75", [r"\frac{1}{2}+\frac{1}{4}", r"1 - \frac14"], [r"\frac{1}{2}-\frac{1}{4}", r"\frac{2}{6}"]),
        ("4", ["|-4|", r"\left|-4\right|"], ["-|4|", "|4 - 1|"]),
    ],
    "hedging": [
        ("5", ["5", "So the answer is 5."],
            ["5 or 6", "5, no wait 6", "not 5", "", "5 and 6", "either 5 or 6", "4, 5, 6", r"\{5, 6\}",
             r"5 \text{ or } 6", "I don't know", "What is 2 + 3?", "...", "The answer is 5 or 6",
             "It is not 5", r"5 \pm 1", "x = 5 or x = 6", "[4,6]", "4 < x < 6",
             r"\boxed{5} \text{ or } \boxed{6}", "between 4 and 6"]),
        ("2,3", ["2 and 3", "3 or 2", "x=2 or x=3"], ["2 or 4", "2, 3 or 4", "neither 2 nor 3"]),
        (r"\frac{1}{2}", [r"x = \frac{1}{2}", "Answer: 1/2"],
            ["1/2 or 1/3", "not 1/2", r"\frac{1}{2}, \frac{1}{3}"]),
        (r"\text{odd}", ["odd"], ["odd or even", "not odd", "odd, even"]),
        ("x=2, y=3", ["x = 2, y = 3", "y=3, x=2"], ["x=3, y=2", "x=2", "x=2, y=3, z=4"]),
    ],
}
# fmt: on


class Case(NamedTuple):
    id: str
    gold: str
    answer: str
    right: bool


def _cases() -> list[Case]:
    cases = []
    for category, rows in JUDGED.items():
        pairs = []
        for gold, right, wrong in rows:
            pairs += [(gold, answer, True) for answer in right]
            pairs += [(gold, answer, False) for answer in wrong]
        cases += [Case(f"{category}-{i}", *pair) for i, pair in enumerate(pairs)]
    return cases


CASES = _cases()


def test_table_is_large_and_judges_both_ways() -> None:
    assert len(CASES) >= 400
    assert len({(case.gold, case.answer) for case in CASES}) == len(CASES)
    for category in JUDGED:
        right = [case.right for case in CASES if case.id.startswith(f"{category}-")]
        assert len(right) >= 10
        assert 0.2 <= sum(right) / len(right) <= 0.7, category


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_judged_as_by_hand(case: Case) -> None:
    failure = verify_math(case.answer, case.gold)
    assert (failure is None) == case.right, failure
