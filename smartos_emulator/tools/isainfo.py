# SPDX-License-Identifier: Apache-2.0
"""isainfo(1): what the processors can do."""

import getopt

from smartos_emulator import call as call_module

_USAGE = "usage: isainfo [ -v ] [ -b | -n | -k | -x ]\n"
_COMMON = "sse4.2 sse4.1 ssse3 popcnt tscp cx16 sse3 sse2 sse fxsr mmx cmov"
_AMD64 = (
    f"avx2 bmi1 bmi2 fma f16c rdrand avx xsave pclmulqdq aes movbe {_COMMON} amd_sysc cx8 tsc fpu"
)
_I386 = f"avx2 bmi1 bmi2 fma f16c rdrand avx xsave pclmulqdq aes movbe {_COMMON} sep cx8 tsc fpu"


def main(call: call_module.Call) -> int:
    """isainfo [-v] [-b | -n | -k | -x]"""
    try:
        pairs, operands = getopt.getopt(call.argv[1:], "bknvx")
    except getopt.GetoptError as error:
        raise call_module.Exit(1, f"isainfo: illegal option -- {error.opt}\n{_USAGE}") from None
    flags = {flag for flag, _ in pairs}
    if operands or len(flags - {"-v"}) > 1:
        raise call_module.Exit(1, _USAGE)
    call.out(_answer(flags, "vmx " if call.node.config.bhyve else ""))
    return 0


def _answer(flags: set[str], virtual: str) -> str:
    if "-x" in flags:
        return f"amd64: {virtual}{_AMD64}\ni386: {_I386}\n"
    if "-b" in flags:
        return "64-bit amd64 applications\n" if "-v" in flags else "64\n"
    if "-k" in flags:
        return "64-bit amd64 kernel modules\n" if "-v" in flags else "amd64\n"
    if "-n" in flags:
        return "64-bit amd64 applications\n" if "-v" in flags else "amd64\n"
    if "-v" in flags:
        return (
            f"64-bit amd64 applications\n\t{virtual}{_AMD64}\n32-bit i386 applications\n\t{_I386}\n"
        )
    return "amd64 i386\n"
