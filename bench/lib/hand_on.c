/*
 * A library to preload: makes every Lua VM use an allocator that only calls the VM's own. A call that
 * returns a block returns through this allocator, as is necessary to see the block.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

typedef void *allocator(void *data, void *block, size_t from, size_t to);

struct vm { allocator *original; void *data; };

static void *hand_on(void *data, void *block, size_t from, size_t to)
{
    struct vm *vm = data;
    void *given;

    if (to == 0) {
        return vm->original(vm->data, block, from, to);
    }
    given = vm->original(vm->data, block, from, to);
    __asm__ volatile("" : "+r"(given));
    return given;
}

void *luaL_newstate(void)
{
    void *(*next)(void) = (void *(*)(void)) dlsym(RTLD_NEXT, "luaL_newstate");
    allocator *(*get)(void *, void **) = (allocator *(*)(void *, void **)) dlsym(RTLD_NEXT, "lua_getallocf");
    void (*set)(void *, allocator *, void *) = (void (*)(void *, allocator *, void *)) dlsym(RTLD_NEXT, "lua_setallocf");
    struct vm *vm = malloc(sizeof(*vm));
    void *state = next();

    if (state != NULL && vm != NULL) {
        vm->original = get(state, &vm->data);
        set(state, hand_on, vm);
    }
    return state;
}
