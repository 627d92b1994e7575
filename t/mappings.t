# The largest mappings that the kernel names, in the entries for memory without another owner; machine code,
# huge pages, limits.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

use constant { MB => 1048576, PAGE => page_size() };

# Returns a process's mappings from smaps: path, perms, size, and the bytes of each line.
sub smaps {
    my ($pid) = @_;
    my @maps;
    for (split /\n/, read_file("/proc/$pid/smaps")) {
        if (/^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+\s*(.*)$/) {
            push @maps, { perms => $3, size => hex($2) - hex $1, path => $4 };
        }
        elsif (/^(\w+):\s+(\d+) kB/) { $maps[-1]{$1} = $2 * 1024 }
    }
    return @maps;
}

# Declarations of the C functions that these tests call from Lua.
our $FFI = <<'END';
local ffi = require "ffi"
ffi.cdef[[
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset);
    int open(const char *path, int flags);
    int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
    int madvise(void *addr, size_t length, int advice);
]]
END

run_tests();

__DATA__

=== TEST 1: the largest mappings, by path and name
--- http_config eval
"init_by_lua_block { function touch(p, n) local f = require 'ffi'; p = f.cast('char *', p); for i = 0, n - 1, 4096 do p[i] = 1 end end\n$::FFI ffi_ = ffi }"
--- config
location /memstat { memstat; }
location /map {
    content_by_lua_block {
        local ffi = ffi_
        local root = ngx.config.prefix()
        local out = assert(io.open(ngx.var.document_root .. "/data.mdb", "w+"))
        out:seek("set", 64 * 1048576 - 1) out:write("x") out:close()
        local fd = ffi.C.open(ngx.var.document_root .. "/data.mdb", 2)
        assert(fd >= 0)
        touch(ffi.C.mmap(nil, 64 * 1048576, 3, 1, fd, 0), 40 * 1048576)
        local p = ffi.C.mmap(nil, 20 * 1048576, 3, 0x22, -1, 0)
        touch(p, 10 * 1048576)
        local name = ffi.C.mmap(nil, 4096, 3, 0x22, -1, 0)
        ffi.copy(name, "held by a test")
        ngx.say(ffi.C.prctl(0x53564d41, 0, ffi.cast("unsigned long", p), 20 * 1048576, ffi.cast("unsigned long", name)))
    }
}
--- perl
my ($worker) = $t->workers;
chmod 0777, $t->root . '/html';
my $named = $t->get('/map')->{body} =~ /^0$/;
my $process = process_of($t->fresh('/memstat?refresh=zones'), $worker);
adds_up($process, 'the worker');
my ($file) = grep { ($_->{path} // '') =~ /data\.mdb$/ } @{ $process->{mappings}{file_other} };
my ($theirs) = grep { $_->{path} =~ /data\.mdb$/ } smaps($worker);
is $file->{perms}, 'rw-s', 'the file: permissions';
is $file->{path}, $theirs->{path}, 'the file: path';
is $file->{reserved}, 64 * MB, 'the file: size';
is $file->{resident}, $theirs->{Rss}, 'the file: resident';
is $file->{count}, 1, 'the file: one mapping';
is_deeply $process->{mappings}{file_other}[0], $file, 'it is the first';
my $path = $named ? '[anon:held by a test]' : undef;
my ($anon) = grep { $_->{reserved} == 20 * MB } @{ $process->{mappings}{anon_other} };
is $anon->{path}, $path, 'anonymous memory: its name, where the kernel has names';
is $anon->{perms}, 'rw-p', 'its permissions';
my ($rss) = map { $_->{Rss} } grep { $_->{size} == 20 * MB } smaps($worker);
is $anon->{resident}, $rss, 'resident';
for my $entry (qw(file_other anon_other)) {
    my @list = @{ $process->{mappings}{$entry} };
    cmp_ok scalar(@list), '<=', 10, "$entry: ten at most";
    cmp_ok sum(map { $_->{reserved} } @list), '<=', $process->{breakdown}{$entry}{reserved},
        "$entry: no more than the entry has";
}
like $t->get('/memstat?format=text')->{body} =~ s/\n/ /gr, qr/in file_other: \S+data\.mdb rw-s 40\.0 MiB/, 'the screen';
like $t->get("/memstat?format=text&pid=$worker")->{body}, qr/file_other +1 +1 +64\.0 MiB +40\.0 MiB +rw-s +\S+data\.mdb/, 'the text';
like $t->get("/memstat?format=html&pid=$worker")->{body}, qr/data\.mdb.*rw-s/s, 'the page';

=== TEST 2: machine code that is not LuaJIT's
--- main_config
pcre_jit on;
--- config eval
"location /memstat { memstat; }\n" . CORE::join '', map { "location ~ \"^/(a|b)+$_\\d{2,5}(x|y)*\$\" { return 204; }\n" } 1 .. 300
--- perl
my ($worker) = $t->workers;
my $process = process_of($t->fresh, $worker);
adds_up($process, 'the worker');
my @code = grep { $_->{perms} =~ /x/ && ($_->{path} eq '' || $_->{path} =~ /^\[anon:/) } smaps($worker);
my $luajit = $process->{breakdown}{luajit_mcode}{reserved} // 0;
is $process->{breakdown}{other_mcode}{reserved}, sum(map { $_->{size} } @code) - $luajit, 'virtual';
is $process->{breakdown}{other_mcode}{resident}, sum(map { $_->{Rss} } @code)
    - ($process->{breakdown}{luajit_mcode}{resident} // 0), 'resident';
cmp_ok $process->{breakdown}{other_mcode}{resident}, '>', 100_000, 'of 300 regular expressions';
like $t->get('/memstat?format=prometheus')->{body}, qr/category_resident_bytes\{[^}]*category="other_mcode"/, 'the metrics';

=== TEST 3: limits
--- under
prlimit --as=3221225472 --data=300000000
--- config
location /memstat { memstat; }
--- perl
my $reply = $t->fresh;
my ($worker) = $t->workers;
for my $process (@{ $reply->{processes} }) {
    is_deeply $process->{limits}, { address_space => 3221225472, data => 300000000 }, "$process->{kind}: limits";
}
my %status = proc_status($worker);
near process_of($reply, $worker)->{system}{data}, $status{VmData}, MB, 'data';
like $t->get('/memstat?format=prometheus')->{body}, qr/process_limit_bytes\{[^}]*limit="data"\} 300000000/, 'the metrics';

=== TEST 4: no limits
--- config
location /memstat { memstat; }
--- perl
is_deeply $_->{limits}, {}, "$_->{kind}: none" for @{ $t->fresh->{processes} };

=== TEST 5: transparent huge pages
--- http_config eval
"init_by_lua_block { $::FFI ffi_ = ffi }"
--- config
location /memstat { memstat; }
location /map {
    content_by_lua_block {
        local ffi = ffi_
        local p = ffi.C.mmap(nil, 64 * 1048576, 3, 0x22, -1, 0)
        ffi.C.madvise(p, 64 * 1048576, 14)
        p = ffi.cast("char *", p)
        for i = 0, 64 * 1048576 - 1, 4096 do p[i] = 1 end
        ngx.say("ok")
    }
}
--- perl
my ($worker) = $t->workers;
$t->get('/map');
my $process = process_of($t->fresh('/memstat?refresh=zones'), $worker);
my $theirs = sum(map { $_->{AnonHugePages} } smaps($worker));
my $ours = $process->{system}{resident_huge};
if (defined $ours) { is $ours, $theirs, "as the kernel's $theirs" }
else { unlike "@{ $process->{notes} }", qr/resident_huge/, 'a kernel that cannot tell is no reason for a note' }

=== TEST 6: huge pages
--- main_config
env GLIBC_TUNABLES;
--- env
GLIBC_TUNABLES=glibc.malloc.hugetlb=2
--- http_config eval
"init_by_lua_block { $::FFI ffi.cdef[[ void *malloc(size_t n); ]] ffi_ = ffi }"
--- config
location /memstat { memstat; }
location /fill {
    content_by_lua_block {
        local ffi = ffi_
        for i = 1, 4000 do ffi.fill(ffi.C.malloc(3000), 3000, 1) end
        ngx.say("ok")
    }
}
location /others {
    content_by_lua_block {
        local p = ffi_.C.mmap(nil, 8 * 1048576, 3, 0x40022, -1, 0)
        ffi_.fill(p, 8 * 1048576, 255)
        ngx.say("ok")
    }
}
--- perl
my $pool = '/proc/sys/vm/nr_hugepages';
my ($worker) = $t->workers;
my %status = proc_status($worker);
my $process = process_of($t->fresh, $worker);
is $process->{system}{hugetlb}, $status{HugetlbPages}, 'HugetlbPages';
if (!$status{HugetlbPages}) {
    my $before = read_file($pool) // 0;
    my $set = sub { open my $f, '>', $pool or return; print {$f} $_[0]; close $f };
    $set->($before + 64);
    my $given = read_file($pool);
    if ($given < $before + 64) { $set->($before); plan(skip_all => 'the kernel gives no huge pages'); return }
    my $lived = eval {
        $t->stop;
        $t->start;
        ($worker) = $t->workers;
        $t->get('/fill');
        $t->get('/others');
        $process = process_of($t->fresh, $worker);
        %status = proc_status($worker);
        1;
    };
    my $why = $@;
    # A mapping that is not malloc's.
    my @huge = grep { $_->{path} =~ m{^/anon_hugepage} && $_->{size} != 8 * MB } smaps($worker);
    my $text = $t->get('/memstat?format=text')->{body};
    my $metrics = $t->get('/memstat?format=prometheus')->{body};
    $set->($before);
    ok $lived, "it runs with them: $why";
    cmp_ok $status{HugetlbPages}, '>', 10 * MB, 'there are some';
    is $process->{system}{hugetlb}, $status{HugetlbPages}, 'HugetlbPages';
    adds_up($process, 'the worker');
    my $allocator = $process->{allocator};
    cmp_ok $allocator->{reserved}, '>=', 12_000_000, "malloc's own account: what it has";
    is $allocator->{reserved}, $allocator->{in_use} + $allocator->{free}, 'in use and free';
    cmp_ok $allocator->{in_use}, '>=', 12_000_000, 'what was asked for';
    is scalar(grep { /^glibc/ } @{ $process->{notes} }), 0, "nothing is missing: @{ $process->{notes} }";
    cmp_ok $process->{breakdown}{glibc_heap}{reserved}, '>=', sum(map { $_->{size} } @huge), 'they are malloc\'s';
    my @others = grep { ($_->{path} // '') =~ /anon_hugepage/ } @{ $process->{mappings}{file_other} };
    is_deeply [ map { [ @$_{qw(perms reserved count)} ] } @others ], [ [ 'rw-p', 8 * MB, 1 ] ],
        'but for those of others';
    like $text, qr/of huge pages \(HugetlbPages\) in addition to resident/, 'the text';
    like $metrics, qr/process_hugetlb_bytes\{[^}]*kind="worker"[^}]*\} $status{HugetlbPages}/, 'the metrics';
}
