/* A program with mistakes, to see that the sanitizers see them. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
	volatile int n = INT_MAX;
	char *b = malloc(8);

	if (argc < 2 || !b)
		return 0;
	if (strcmp(argv[1], "undefined") == 0)
		n += argc;
	else
		b[n / (INT_MAX / 8)] = 1;
	free(b);
	return 0;
}
