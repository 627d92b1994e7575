# Servers with 4 workers, each with a large number of one thing that the cost of an answer may depend on.
package Bench::Drivers;

use strict;
use warnings;

use Exporter 'import';

use Bench::Looking qw(ask ask_often connections reply server);
use Test::Memstat::Proc qw(maps read_file);

our @EXPORT_OK = qw(with_chunks with_mappings with_pools with_zone);

my $WORKERS = 4;

# Starts a server with this number of live pools in each worker.
sub with_pools {
    my ($count) = @_;
    my $t = server($WORKERS,
        main_config => 'load_module $TEST_NGINX_BUILT_ngx_http_pool_test_module;',
        config => 'location /leak { pool_test_leak 512; }');
    ask_often($_, '/leak', $count) for values %{ connections($t) };
    my @workers = grep { $_->{kind} eq 'worker' } @{ reply($t)->{processes} };
    my ($live) = sort { $a <=> $b } map { $_->{pools}{live} } @workers;
    die "a worker has $live pools\n" if $live < $count;
    return $t;
}

# Starts a server with a zone of this size in MB, in which each worker has touched every page.
sub with_zone {
    my ($size) = @_;
    my ($available) = read_file('/proc/meminfo') =~ /^MemAvailable:\s+(\d+) kB/m;
    die "$size MB of memory and 2 GB are needed\n" if $available < ($size + 2048) << 10;
    my $t = server($WORKERS, http_config => "lua_shared_dict large ${size}m;\n", config => <<'END');
location /fill {
    content_by_lua_block {
        local value, count = string.rep("x", 8000000), 0
        while ngx.shared.large:safe_set(count, value) do count = count + 1 end
        value = string.rep("x", 100000)
        while ngx.shared.large:safe_set(count, value) do count = count + 1 end
        ngx.print(count)
    }
}
location /read {
    content_by_lua_block {
        local count = 0
        while ngx.shared.large:get(count) do count = count + 1 end
        ngx.print(count)
    }
}
END
    my @clients = values %{ connections($t) };
    ask($clients[0], '/fill');
    ask($_, '/read') for @clients;
    my $zone = reply($t, '?refresh=zones')->{shared_zones}{large};
    die "$zone->{resident} bytes of the zone are touched\n" if $zone->{resident} < 0.98 * $zone->{size};
    return $t;
}

# Starts a server with this number of free chunks of a kilobyte in each worker's heap, and as many chunks
# in use between them.
sub with_chunks {
    my ($count) = @_;
    my $t = server($WORKERS, config => <<'END' =~ s/\bCOUNT\b/$count/gr);
location /free {
    content_by_lua_block {
        local ffi = require "ffi"
        ffi.cdef "void *malloc(size_t); void free(void *);"
        local blocks = ffi.new("void *[?]", 2 * COUNT)
        for i = 0, 2 * COUNT - 1 do blocks[i] = ffi.C.malloc(1032) end
        for i = 0, 2 * COUNT - 1, 2 do ffi.C.free(blocks[i]) end
        ngx.print("ok")
    }
}
END
    ask($_, '/free') for values %{ connections($t) };
    return $t;
}

# Starts a server with this number of mappings in each worker: one page each, with an inaccessible page
# between two of them.
sub with_mappings {
    my ($count) = @_;
    my $t = server($WORKERS, config => <<'END');
location /map {
    content_by_lua_block {
        local ffi = require "ffi"
        ffi.cdef "void *mmap(void *, size_t, int, int, int, long); int mprotect(void *, size_t, int);"
        local pages, size = ngx.var.arg_pages, 4096
        local memory = ffi.C.mmap(nil, pages * size, 0, 0x22, -1, 0)
        for i = 1, pages - 1, 2 do
            assert(ffi.C.mprotect(ffi.cast("char *", memory) + i * size, size, 3) == 0)
        end
        ngx.print("ok")
    }
}
END
    my $to = connections($t);
    for my $pid (keys %$to) {
        my $missing = $count - (() = maps($pid));
        ask($to->{$pid}, "/map?pages=$missing") if $missing > 0;
        my $mappings = () = maps($pid);
        die "worker $pid has $mappings mappings\n" if abs($mappings - $count) > 10;
    }
    return $t;
}

1;
