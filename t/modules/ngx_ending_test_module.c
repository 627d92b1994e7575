/*
 * Workers that take their time to end, for the tests of who is in an answer meanwhile.
 *
 *     ending_test_wait time;   between the end of its modules and its exit: the process still has its
 *                              memory and its title
 *     ending_test_give_back size;   while it exits: the kernel has taken its memory, and then frees so
 *                              much that only a descriptor of it has
 */

#define _GNU_SOURCE
#include <ngx_config.h>
#include <ngx_core.h>
#include <sys/mman.h>

typedef struct {
    ngx_msec_t  wait;
    size_t      give_back;
} ngx_ending_test_conf_t;

static void *
ngx_ending_test_create_conf(ngx_cycle_t *cycle)
{
    ngx_ending_test_conf_t *conf = ngx_pcalloc(cycle->pool, sizeof(ngx_ending_test_conf_t));
    if (conf != NULL) {
        conf->wait = NGX_CONF_UNSET_MSEC;
        conf->give_back = NGX_CONF_UNSET_SIZE;
    }
    return conf;
}

static ngx_command_t ngx_ending_test_commands[] = {
    { ngx_string("ending_test_wait"), NGX_MAIN_CONF|NGX_DIRECT_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot, 0, offsetof(ngx_ending_test_conf_t, wait), NULL },
    { ngx_string("ending_test_give_back"), NGX_MAIN_CONF|NGX_DIRECT_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_size_slot, 0, offsetof(ngx_ending_test_conf_t, give_back), NULL },
    ngx_null_command
};

static ngx_core_module_t ngx_ending_test_context = {
    ngx_string("ending_test"), ngx_ending_test_create_conf, NULL
};

ngx_module_t ngx_ending_test_module;

/* A cleanup of the cycle's pool: nginx destroys that after the modules have ended the process. */
static void
ngx_ending_test_wait(void *data)
{
    ngx_ending_test_conf_t *conf = data;

    if (ngx_process == NGX_PROCESS_WORKER) {
        ngx_msleep(conf->wait);
    }
}

static ngx_int_t
ngx_ending_test_init_process(ngx_cycle_t *cycle)
{
    int                      fd;
    ngx_pool_cleanup_t      *cleanup;
    ngx_ending_test_conf_t  *conf;

    conf = (ngx_ending_test_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_ending_test_module);
    if (conf->wait != NGX_CONF_UNSET_MSEC) {
        cleanup = ngx_pool_cleanup_add(cycle->pool, 0);
        if (cleanup == NULL) {
            return NGX_ERROR;
        }
        cleanup->handler = ngx_ending_test_wait;
        cleanup->data = conf;
    }
    if (conf->give_back != NGX_CONF_UNSET_SIZE && ngx_process == NGX_PROCESS_WORKER) {
        fd = memfd_create("ending_test", MFD_CLOEXEC);
        if (fd == -1 || posix_fallocate(fd, 0, conf->give_back) != 0) {
            return NGX_ERROR;
        }
    }
    return NGX_OK;
}

ngx_module_t ngx_ending_test_module = {
    NGX_MODULE_V1,
    &ngx_ending_test_context,
    ngx_ending_test_commands,
    NGX_CORE_MODULE,
    NULL, NULL, ngx_ending_test_init_process, NULL, NULL, NULL, NULL,
    NGX_MODULE_V1_PADDING
};

ngx_module_t *ngx_modules[] = { &ngx_ending_test_module, NULL };
char *ngx_module_names[] = { "ngx_ending_test_module", NULL };
char *ngx_module_order[] = { NULL };
