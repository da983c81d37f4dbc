// Makes one system call or one of SQLite's allocations fail, on demand: LD_PRELOAD.
//
//	fail_at(kind, n, error)	the n-th call of that kind from now on fails with errno error
//	fail_never()		none does; returns how many calls there were since fail_at()
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

enum { NONE, CALLS, ALLOCATIONS };

static int kind, error;
static long at, calls;
static void *sqlite;

void fail_at(int what, long n, int number, void *function_of_sqlite)
{
	Dl_info found;

	sqlite = dladdr(function_of_sqlite, &found) ? found.dli_fbase : NULL;
	error = number;
	at = n;
	calls = 0;
	kind = what;
}

long fail_never(void)
{
	kind = NONE;
	return calls;
}

static int fails(int what)
{
	if (kind != what || ++calls != at)
		return 0;
	errno = error;
	return 1;
}

#define REAL(name) \
	static __typeof__(name) *real; \
	if (!real) \
		real = dlsym(RTLD_NEXT, #name)

#define FAILING(type, bad, name, parameters, arguments) \
	type name parameters; \
	type name parameters \
	{ \
		REAL(name); \
		return fails(CALLS) ? (bad) : real arguments; \
	}

#define OPENING(name, first, given) \
	int name first; \
	int name first \
	{ \
		va_list rest; \
		mode_t mode; \
		REAL(name); \
		va_start(rest, flags); \
		mode = va_arg(rest, mode_t); \
		va_end(rest); \
		return fails(CALLS) ? -1 : real given; \
	}

struct stat;
struct stat64;
OPENING(open, (const char *path, int flags, ...), (path, flags, mode))
OPENING(open64, (const char *path, int flags, ...), (path, flags, mode))
OPENING(openat, (int dir, const char *path, int flags, ...), (dir, path, flags, mode))
OPENING(openat64, (int dir, const char *path, int flags, ...), (dir, path, flags, mode))
FAILING(ssize_t, -1, read, (int fd, void *to, size_t size), (fd, to, size))
FAILING(ssize_t, -1, write, (int fd, const void *of, size_t size), (fd, of, size))
FAILING(ssize_t, -1, pread64, (int fd, void *to, size_t size, off64_t at), (fd, to, size, at))
FAILING(ssize_t, -1, pwrite64, (int fd, const void *of, size_t size, off64_t at),
	(fd, of, size, at))
FAILING(int, -1, fstat64, (int fd, struct stat64 *to), (fd, to))
FAILING(int, -1, stat64, (const char *path, struct stat64 *to), (path, to))
FAILING(int, -1, lstat64, (const char *path, struct stat64 *to), (path, to))
FAILING(int, -1, fstatat64, (int dir, const char *path, struct stat64 *to, int flags),
	(dir, path, to, flags))
FAILING(void *, (void *)-1, mmap64,
	(void *where, size_t size, int may, int flags, int fd, off64_t at),
	(where, size, may, flags, fd, at))
FAILING(off64_t, -1, lseek64, (int fd, off64_t to, int whence), (fd, to, whence))
FAILING(int, -1, ftruncate64, (int fd, off64_t size), (fd, size))
FAILING(int, -1, fsync, (int fd), (fd))
FAILING(int, -1, fdatasync, (int fd), (fd))
FAILING(int, -1, unlink, (const char *path), (path))
FAILING(int, -1, access, (const char *path, int mode), (path, mode))
FAILING(ssize_t, -1, readlink, (const char *path, char *to, size_t size), (path, to, size))
FAILING(void *, NULL, opendir, (const char *path), (path))

static int of_sqlite(void *caller)
{
	Dl_info found;

	return kind == ALLOCATIONS && dladdr(caller, &found) && found.dli_fbase == sqlite;
}

// glibc's own names, because dlsym() itself allocates.
void *__libc_malloc(size_t size);
void *__libc_realloc(void *was, size_t size);

void *malloc(size_t size)
{
	if (of_sqlite(__builtin_return_address(0)) && fails(ALLOCATIONS))
		return NULL;
	return __libc_malloc(size);
}

void *realloc(void *was, size_t size)
{
	if (of_sqlite(__builtin_return_address(0)) && fails(ALLOCATIONS))
		return NULL;
	return __libc_realloc(was, size);
}
