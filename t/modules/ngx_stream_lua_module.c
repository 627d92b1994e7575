/*
 * A stand-in for ngx_stream_lua_module, which Debian does not ship. It creates, keeps and closes its VM in
 * the same way, and runs code in it when the configuration is read (init_by_lua) and when a process
 * starts (init_worker_by_lua).
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_stream.h>

#include <luajit-2.1/lauxlib.h>
#include <luajit-2.1/lualib.h>

/* Functions of LuaJIT. The module under test declares them in the same way (src/hook/lua/api.rs). */
#define SAME(function, type) \
    _Static_assert(__builtin_types_compatible_p(__typeof__(&function), type), #function)
SAME(luaL_newstate, lua_State *(*)(void));
SAME(lua_newstate, lua_State *(*)(lua_Alloc, void *));
SAME(lua_close, void (*)(lua_State *));
SAME(lua_getallocf, lua_Alloc (*)(lua_State *, void **));
SAME(lua_setallocf, void (*)(lua_State *, lua_Alloc, void *));
SAME(lua_gc, int (*)(lua_State *, int, int));
_Static_assert(__builtin_types_compatible_p(lua_Alloc,
                                            void *(*)(void *, void *, size_t, size_t)), "lua_Alloc");
_Static_assert(LUA_GCCOUNT == 3 && LUA_GCCOUNTB == 4 && LUA_GCSETPAUSE == 6
               && LUA_GCSETSTEPMUL == 7 && LUA_GCISRUNNING == 9, "lua_gc");

#ifdef UNSEEN
/* Calls that the object's import tables do not show, as if LuaJIT were linked into the executable. */
#include <dlfcn.h>
#define luaL_newstate() ((lua_State *(*)(void)) dlsym(RTLD_DEFAULT, "luaL_newstate"))()
#define lua_close(L) ((void (*)(lua_State *)) dlsym(RTLD_DEFAULT, "lua_close"))(L)
#endif

typedef struct {
    lua_State  *vm;
    ngx_int_t   count;
} ngx_stream_lua_vm_state_t;

typedef struct {
    lua_State           *lua;
    ngx_pool_cleanup_t  *vm_cleanup;
    ngx_str_t            init_src;
    ngx_str_t            init_worker_src;
} ngx_stream_lua_main_conf_t;

extern ngx_module_t  ngx_stream_lua_module;

static ngx_int_t
run(lua_State *L, ngx_str_t *code, ngx_log_t *log)
{
    if (luaL_loadbuffer(L, (char *) code->data, code->len, "=lua") == 0
        && lua_pcall(L, 0, 0, 0) == 0)
    {
        return NGX_OK;
    }

    ngx_log_error(NGX_LOG_EMERG, log, 0, "stream lua: %s", lua_tostring(L, -1));
    return NGX_ERROR;
}

lua_State *
ngx_stream_lua_get_global_state(ngx_conf_t *cf)
{
    ngx_stream_lua_main_conf_t  *lmcf;

    lmcf = ngx_stream_conf_get_module_main_conf(cf, ngx_stream_lua_module);

    return lmcf->lua;
}

static void
ngx_stream_lua_cleanup_vm(void *data)
{
    ngx_stream_lua_vm_state_t  *state = data;

    if (--state->count == 0) {
        lua_close(state->vm);
    }
}

static ngx_int_t
ngx_stream_lua_init(ngx_conf_t *cf)
{
    ngx_stream_lua_vm_state_t   *state;
    ngx_stream_lua_main_conf_t  *lmcf;

    lmcf = ngx_stream_conf_get_module_main_conf(cf, ngx_stream_lua_module);
    lmcf->lua = luaL_newstate();
    lmcf->vm_cleanup = ngx_pool_cleanup_add(cf->pool, sizeof(ngx_stream_lua_vm_state_t));
    if (lmcf->lua == NULL || lmcf->vm_cleanup == NULL) {
        return NGX_ERROR;
    }

    state = lmcf->vm_cleanup->data;
    state->vm = lmcf->lua;
    state->count = 1;
    lmcf->vm_cleanup->handler = ngx_stream_lua_cleanup_vm;

    luaL_openlibs(lmcf->lua);
    return run(lmcf->lua, &lmcf->init_src, cf->log);
}

static void *
ngx_stream_lua_create_main_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_stream_lua_main_conf_t));
}

static ngx_int_t
ngx_stream_lua_init_worker(ngx_cycle_t *cycle)
{
    ngx_stream_lua_main_conf_t  *lmcf;

    lmcf = ngx_stream_cycle_get_module_main_conf(cycle, ngx_stream_lua_module);
    if (lmcf == NULL || lmcf->lua == NULL) {
        return NGX_OK;
    }

    if (ngx_process != NGX_PROCESS_WORKER && ngx_process != NGX_PROCESS_SINGLE) {
        lmcf->vm_cleanup->handler(lmcf->vm_cleanup->data);
        lmcf->vm_cleanup->handler = NULL;
        return NGX_OK;
    }

    return run(lmcf->lua, &lmcf->init_worker_src, cycle->log);
}

static ngx_command_t  ngx_stream_lua_commands[] = {

    { ngx_string("init_by_lua"),
      NGX_STREAM_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      NGX_STREAM_MAIN_CONF_OFFSET,
      offsetof(ngx_stream_lua_main_conf_t, init_src),
      NULL },

    { ngx_string("init_worker_by_lua"),
      NGX_STREAM_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_str_slot,
      NGX_STREAM_MAIN_CONF_OFFSET,
      offsetof(ngx_stream_lua_main_conf_t, init_worker_src),
      NULL },

      ngx_null_command
};

static ngx_stream_module_t  ngx_stream_lua_module_ctx = {
    NULL,                              /* preconfiguration */
    ngx_stream_lua_init,               /* postconfiguration */
    ngx_stream_lua_create_main_conf,   /* create main configuration */
    NULL,                              /* init main configuration */
    NULL,                              /* create server configuration */
    NULL                               /* merge server configuration */
};

ngx_module_t  ngx_stream_lua_module = {
    NGX_MODULE_V1,
    &ngx_stream_lua_module_ctx,        /* module context */
    ngx_stream_lua_commands,           /* module directives */
    NGX_STREAM_MODULE,                 /* module type */
    NULL,                              /* init master */
    NULL,                              /* init module */
    ngx_stream_lua_init_worker,        /* init process */
    NULL,                              /* init thread */
    NULL,                              /* exit thread */
    NULL,                              /* exit process */
    NULL,                              /* exit master */
    NGX_MODULE_V1_PADDING
};

#ifndef STREAM_LUA_LINKED
/* The symbols that nginx looks for in a dynamic module. */
ngx_module_t *ngx_modules[] = { &ngx_stream_lua_module, NULL };
char *ngx_module_names[] = { "ngx_stream_lua_module", NULL };
char *ngx_module_order[] = { NULL };
#endif
