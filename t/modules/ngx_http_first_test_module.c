/*
 * Allocates while nginx reads the configuration, as nginx-rtmp and others do: a pool when its main
 * configuration is created, another when all of http is read, and a slab pool in its own shared memory,
 * with three blocks. All of it is freed with the configuration.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#define POOL_SIZE  16384
#define SHM_SIZE   65536
#define BLOCKS     3

static void
ngx_http_first_test_end_pool(void *pool)
{
    ngx_destroy_pool(pool);
}

/* The log of the cycle lives as long as the pool. */
ngx_int_t
ngx_http_first_test_pool(ngx_conf_t *cf)
{
    ngx_pool_t          *pool = ngx_create_pool(POOL_SIZE, &cf->cycle->new_log);
    ngx_pool_cleanup_t  *cleanup = ngx_pool_cleanup_add(cf->pool, 0);

    if (pool == NULL || cleanup == NULL || ngx_palloc(pool, 2 * POOL_SIZE) == NULL) {
        return NGX_ERROR;
    }
    cleanup->handler = ngx_http_first_test_end_pool;
    cleanup->data = pool;
    return NGX_OK;
}

static void
ngx_http_first_test_end_shm(void *data)
{
    ngx_shm_t  *shm = data;

    ngx_shm_free(shm);
}

static ngx_int_t
ngx_http_first_test_shm(ngx_conf_t *cf)
{
    ngx_shm_t           *shm;
    ngx_slab_pool_t     *pool;
    ngx_pool_cleanup_t  *cleanup = ngx_pool_cleanup_add(cf->pool, sizeof(ngx_shm_t));

    if (cleanup == NULL) {
        return NGX_ERROR;
    }
    shm = cleanup->data;
    ngx_memzero(shm, sizeof(ngx_shm_t));
    ngx_str_set(&shm->name, "first_test");
    shm->size = SHM_SIZE;
    shm->log = &cf->cycle->new_log;
    if (ngx_shm_alloc(shm) != NGX_OK) {
        return NGX_ERROR;
    }
    cleanup->handler = ngx_http_first_test_end_shm;

    pool = (ngx_slab_pool_t *) shm->addr;
    pool->end = shm->addr + shm->size;
    pool->min_shift = 3;
    pool->addr = shm->addr;
    if (ngx_shmtx_create(&pool->mutex, &pool->lock, NULL) != NGX_OK) {
        return NGX_ERROR;
    }
    ngx_slab_init(pool);
    for (ngx_int_t i = 0; i < BLOCKS; i++) {
        if (ngx_slab_alloc(pool, 100) == NULL) {
            return NGX_ERROR;
        }
    }
    return NGX_OK;
}

static void *
ngx_http_first_test_create_main_conf(ngx_conf_t *cf)
{
    if (ngx_http_first_test_pool(cf) != NGX_OK || ngx_http_first_test_shm(cf) != NGX_OK) {
        return NULL;
    }
    return cf;
}

static ngx_int_t
ngx_http_first_test_postconfiguration(ngx_conf_t *cf)
{
    return ngx_http_first_test_pool(cf);
}

static ngx_http_module_t ngx_http_first_test_ctx = {
    NULL, ngx_http_first_test_postconfiguration, ngx_http_first_test_create_main_conf,
    NULL, NULL, NULL, NULL, NULL
};

ngx_module_t ngx_http_first_test_module = {
    NGX_MODULE_V1,
    &ngx_http_first_test_ctx,
    NULL,
    NGX_HTTP_MODULE,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NGX_MODULE_V1_PADDING
};

/* The symbols that configure generates for a dynamic module. */
ngx_module_t *ngx_modules[] = { &ngx_http_first_test_module, NULL };
char *ngx_module_names[] = { "ngx_http_first_test_module", NULL };
char *ngx_module_order[] = { NULL };
