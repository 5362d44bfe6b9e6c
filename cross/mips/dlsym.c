/* musl's dlsym for MIPS is position-independent assembly: it finds its data through register $25,
 * which only position-independent callers set. Our MIPS programs are linked at a fixed address, so
 * calling it ends in a bus error. Rust crates do call it, to look for functions newer than the libc
 * (getrandom, statx, ...). A static program has no dynamic symbols: "not there" is the true answer,
 * and the callers then make the system call themselves. */
void *dlsym(void *handle, const char *name)
{
	(void)handle;
	(void)name;
	return 0;
}
