/* What Rust's standard library needs of an unwinder to print a backtrace: nothing. Our programs abort on
 * a panic, after its message, and have no tables that an unwinder could read; without these the linker
 * takes in LLVM's libunwind, and printf with it: 56 KB. */
#define NOTHING(name) \
	unsigned long name(void) { return 0; }

/* 5 is _URC_END_OF_STACK. */
unsigned long _Unwind_Backtrace(void) { return 5; }
unsigned long _Unwind_RaiseException(void) { return 5; }
void _Unwind_Resume(void) { __builtin_trap(); }

NOTHING(_Unwind_DeleteException)
NOTHING(_Unwind_FindEnclosingFunction)
NOTHING(_Unwind_GetCFA)
NOTHING(_Unwind_GetDataRelBase)
NOTHING(_Unwind_GetIP)
NOTHING(_Unwind_GetIPInfo)
NOTHING(_Unwind_GetLanguageSpecificData)
NOTHING(_Unwind_GetRegionStart)
NOTHING(_Unwind_GetTextRelBase)
NOTHING(_Unwind_SetGR)
NOTHING(_Unwind_SetIP)
