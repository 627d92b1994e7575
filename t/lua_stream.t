# Lua VMs of the stream module: the real ngx_stream_lua_module, or a stand-in that creates its VM in the same
# way, either loaded or linked into nginx.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;
use Test::Memstat::Lua qw(checked lua_of);
use Test::Memstat::LuaHeap qw(direct_mappings heaps);

use constant MB => 1048576;

# Lua code that allocates 5 MB in small blocks, and a large block.
use constant STREAM => <<'END';
stream {
    init_by_lua "data = {} for i = 1, 50000 do data[i] = { tostring(i) } end big = string.rep('x', 1e6)";
    server {
        listen 127.0.0.1:$TEST_NGINX_PORT_1;
        return ok;
    }
}
END

# Loads a configuration a few times, and checks the VM of the stream module each time. Checks at the end that
# the master keeps none of them.
sub reloads {
    my ($t, $what, $check) = @_;
    for my $load (1 .. 3) {
        my ($lua, $process) = checked($t, "$what, load $load: stream", 'stream');
        cmp_ok $lua->{allocated_bytes}, '>', 6 * MB, 'all of its data';
        is $lua->{vms}, 1, 'one VM';
        is $lua->{direct}{bytes}, sum(direct_mappings($process->{pid})), 'large blocks, as from outside';
        my %heaps = map { ($_->{segments}{bytes} => $_) } heaps($process->{pid});
        my $heap = $heaps{ $lua->{segments}{bytes} } // {};
        is $heap->{free}, $lua->{free_bytes}, 'free, as from outside';
        is $heap->{largest}, $lua->{largest_free}, 'the largest, as from outside';
        is $heap->{blocks}, $lua->{allocations} - $lua->{frees} - $lua->{direct}{count}, 'blocks';
        cmp_ok $process->{breakdown}{anon_other}{resident}, '<', 2 * MB, 'little is left unexplained';
        $check->($process) if $check;
        $t->reload;
    }
    my %before = proc_status($t->master);
    $t->reload for 1 .. 20;
    my %after = proc_status($t->master);
    cmp_ok $after{VmRSS} - $before{VmRSS}, '<', 5 * MB, 'the master keeps none of the VMs';
    checked($t, 'after all', 'stream');
    is_deeply [ $t->stop ], [], 'ends as told';
    return;
}

run_tests();

__DATA__

=== TEST 1: stream alone
--- config
location /memstat { memstat; }
--- perl
my $config = 'location /memstat { memstat; }';
for my $module (qw(first last)) {
    reloads(Test::Memstat::Server->new(module => $module, lua => 0, main_config => STREAM, config => $config)->start, $module);
}

=== TEST 2: http and stream
--- config
location /memstat { memstat; }
location /x { content_by_lua_block { } }
--- perl
for my $module (qw(first last)) {
    my $server = Test::Memstat::Server->new(module => $module, main_config => STREAM, config => $t->{sections}{config});
    reloads($server->start, $module, sub {
        my ($http) = grep { $_->{subsystem} eq 'http' } @{ $_[0]{lua} };
        cmp_ok $http->{allocated_bytes}, '<', 3 * MB, 'http has its own';
        is $http->{allocated_bytes}, $http->{gc_bytes}, 'as Lua counts';
    });
}

=== TEST 3: calls that cannot be seen, as if LuaJIT were linked into the executable
--- config
location /memstat { memstat; }
--- perl
plan skip_all => 'ngx_stream_lua is linked into nginx' unless Test::Memstat::Configuration::stream_lua_module();
local $ENV{TEST_NGINX_STREAM_LUA_MODULE} = Test::Memstat::Build::module('ngx_stream_lua_module',
    '-DUNSEEN', '-Wl,--no-as-needed', '-lluajit-5.1');
my $unseen = Test::Memstat::Server->new(main_config => STREAM, lua => 0,
    config => 'location /memstat { memstat; }')->start;
for (1 .. 2) {
    my ($process) = active_workers($unseen->fresh);
    is $process->{hooks}{lua}, 'on', 'the VM is known';
    my $lua = lua_of($process, 'stream');
    my $direct = scalar direct_mappings($process->{pid});
    cmp_ok $direct, '>', 1, 'it has large blocks';
    cmp_ok $lua->{allocated_bytes}, '>', 6 * MB, 'with its data';
    is $lua->{allocated_bytes}, $lua->{gc_bytes}, 'as Lua counts';
    is $lua->{direct}{count}, $direct, 'its large blocks were found';
    is $lua->{reserved}, $lua->{allocated_bytes} + $lua->{overhead_bytes} + $lua->{free_bytes}, 'it adds up';
    my ($heap) = heaps($process->{pid});
    is $lua->{free_bytes}, $heap->{free}, 'as from outside';
    like "@{ $process->{notes} }", qr/only the VMs that the modules keep/, 'what is not seen is said';
    $unseen->reload;
}
my %before = proc_status($unseen->master);
$unseen->reload for 1 .. 20;
my %after = proc_status($unseen->master);
cmp_ok $after{VmRSS} - $before{VmRSS}, '<', 5 * MB, 'the master keeps none of the VMs';
