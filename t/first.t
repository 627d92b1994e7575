# Allocations of the first configuration are counted from the beginning. If no location wants the hooks,
# nothing of them is left.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;
use Test::Memstat::Background;
use Test::Memstat::Build;
use Test::Memstat::Lua qw(lua_of);

# Returns the pools of a worker by creator, without those of clients: the number of live ones, and their
# size.
sub pools_of {
    my ($t) = @_;
    my ($worker) = active_workers($t->fresh);
    return { map { (($_->{creator} // '?') . " $_->{kind}" => [ @$_{qw(live bytes large_bytes)}, $_->{object} ]) }
        grep { $_->{live} && $_->{kind} !~ /^(?:request|connection|cycle)$/ } @{ $worker->{pools}{by_creator} } };
}

# Returns what the master did to the shared mapping with a name.
sub masters_counts {
    my ($t, $zone) = @_;
    my ($master) = process_with($t->fresh, kind => 'master');
    my $counts = $master->{zones}{$zone} // return undef;
    return [ @$counts{qw(mapped allocations bytes_requested)} ];
}

# Returns how many bytes of nginx's code in a process differ from the file.
sub changed_code {
    my ($pid) = @_;
    my $exe = readlink "/proc/$pid/exe";
    my $differ = 0;
    my ($bias) = map { $_->{from} } grep { $_->{path} eq $exe } maps($pid);
    open my $file, '<:raw', $exe or die "cannot read $exe: $!\n";
    open my $mem, '<:raw', "/proc/$pid/mem" or die "cannot read the memory of $pid: $!\n";
    my %offset;
    for (split /\n/, read_file("/proc/$pid/maps")) {
        my ($from, $offset) = /^(\w+)-\w+ \S+ (\w+) / or next;
        $offset{ hex $from } = hex $offset;
    }
    for my $map (grep { $_->{path} eq $exe && $_->{rights} =~ /x/ } maps($pid)) {
        sysseek $file, $offset{ $map->{from} }, 0;
        sysseek $mem, $map->{from}, 0;
        my ($as_is, $was) = ('', '');
        sysread $mem, $as_is, $map->{size};
        sysread $file, $was, $map->{size};
        # Beyond the end of the segment, the last page has the bytes that follow in the file.
        my $length = length $was < length $as_is ? length $was : length $as_is;
        $differ += grep { $_ } unpack 'C*', substr($as_is, 0, $length) ^ substr($was, 0, $length);
    }
    return $differ;
}

# Returns whether a process has the module mapped.
sub has_module { my ($pid) = @_; return scalar grep { $_->{path} =~ /memstat\.so$/ } maps($pid) }

use constant {
    LOCATION => 'location = /memstat { memstat; }',
    MODULE   => 'load_module $TEST_NGINX_BUILT_ngx_http_first_test_module;',
};

# Built here, because the process that becomes nginx only uses its path.
Test::Memstat::Build::library('clones');

run_tests();

__DATA__

=== TEST 1: pools and shared memory of the first configuration, as after a reload
--- perl
for my $place ('first', 'last') {
    my $s = Test::Memstat::Server->new(module => $place, main_config => MODULE, config => LOCATION)->start;
    my ($pools, $counts) = (pools_of($s), masters_counts($s, 'first_test'));
    my @ours = grep { $_->[3] =~ /first_test/ } values %$pools;
    is sum(map { $_->[0] } @ours), 2, "loaded $place: both pools are live";
    cmp_ok sum(map { $_->[1] + $_->[2] } @ours), '>=', 6 * 16384, 'with what they hold';
    is_deeply $counts, [ 65536, 3, 300 ], 'the blocks of its slab pool';
    $s->reload;
    is_deeply pools_of($s), $pools, 'the same pools after a reload';
    is_deeply masters_counts($s, 'first_test'), $counts, 'the same counts';
    is $_, undef, 'nginx ends as told' for $s->stop;
}

=== TEST 2: the VM of a stream block before http is seen from its creation
--- perl
plan skip_all => 'ngx_stream_lua is linked into nginx' unless Test::Memstat::Configuration::stream_lua_module();
my $stream = <<'END';
stream {
    init_by_lua "for i = 1, 1000 do local t = {} for j = 1, 100 do t[j] = j end end collectgarbage() data = { 1, 2, 3 }";
    server { listen 127.0.0.1:$TEST_NGINX_PORT_1; return ok; }
}
END
for my $place ('first', 'last') {
    my $s = Test::Memstat::Server->new(module => $place, lua => 0, main_config => $stream, config => LOCATION)->start;
    my @figures;
    for my $load (1, 2) {
        my ($worker) = active_workers($s->fresh);
        my $lua = lua_of($worker, 'stream');
        cmp_ok $lua->{frees}, '>', 900, "loaded $place, load $load: its garbage was freed before all eyes";
        is $lua->{allocated_bytes}, $lua->{gc_bytes}, 'as Lua counts';
        is_deeply [ grep { /lua/ } @{ $worker->{notes} } ], [], 'no note';
        push @figures, $lua->{vms};
        $s->reload;
    }
    is_deeply \@figures, [ 1, 1 ], 'one VM';
}

=== TEST 3: hooks that the configuration does not want are removed, with their counts
--- main_config
load_module $TEST_NGINX_BUILT_ngx_http_first_test_module;
memstat_hooks thread;
--- config
location = /memstat { memstat; }
location = /lua { content_by_lua_block { ngx.say(collectgarbage('count')) } }
--- perl
for (1, 2) {
    my $reply = $t->fresh;
    my ($worker) = active_workers($reply);
    is_deeply [ @$worker{qw(pools lua)} ], [ undef, undef ], 'pools and VMs are not known';
    is $worker->{hooks}{$_}, 'off: not among memstat_hooks', $_ for qw(pool slab lua);
    is $worker->{hooks}{thread}, 'on', 'thread';
    is $reply->{shared_zones}{first_test}, undef, 'nor is the mapping';
    is changed_code($_), 0, 'code as in the file' for $t->master, $t->workers;
    is $t->get('/lua')->{status}, 200, 'Lua';
    $t->reload;
}
$t->reload(main_config => MODULE);
ok changed_code($t->master), 'with the hooks the code differs';

=== TEST 4: no location wants the hooks
--- main_config
load_module $TEST_NGINX_BUILT_ngx_http_first_test_module;
--- config
location = /lua { content_by_lua_block { ngx.say(collectgarbage('count')) } }
--- module_copy
1
--- perl
for (1, 2) {
    for my $pid ($t->master, $t->workers) {
        is changed_code($pid), 0, 'code as in the file';
        is scalar(grep { $_->{path} =~ m{^/dev/zero} && $_->{size} > 32768 && $_->{size} < 65536 } maps($pid)), 0,
            'no counters';
    }
    is $t->get('/lua')->{status}, 200, 'Lua';
    $t->reload;
}
$t->reload(module => 0);
ok !has_module($_), 'without load_module it is unloaded' for $t->master, $t->workers;
$t->reload(module => 'first');
$t->reload(config => LOCATION);
is pools_of($t)->{'ngx_http_first_test_pool other'}[0] // 0, 2, 'pools from the load that adds it' or diag explain pools_of($t);
$t->reload(module => 0, config => 'location / { }');
is $t->get('/')->{status}, 403, 'and gone again';

=== TEST 5: a configuration that fails
--- main_config
load_module $TEST_NGINX_BUILT_ngx_http_first_test_module;
--- module_copy
1
--- perl
$t->reload(module => 0);
ok !has_module($t->master), 'not loaded yet';
# With the module, and an error at the end of the configuration.
my $fails = sub {
    my $log = length $t->error_log;
    $t->write_conf(module => 'first', config => LOCATION . "\nlisten 192.0.2.1:1;");
    $t->signal('HUP');
    $t->wait_for('the failure', sub { substr($t->error_log, $log) =~ /192\.0\.2\.1:1 failed/ });
};
$fails->();
ok $t->wait_for('the end of its hooks', sub { !changed_code($t->master) }), 'the hooks are out again';
is scalar($t->workers), 1, 'the old worker serves';
is $t->get('/')->{status}, 403, 'as before';
$t->reload(module => 0, config => '');
ok !has_module($t->master), 'the next configuration unloads it';
$fails->() for 1 .. 3;
$t->reload(module => 'first', config => LOCATION);
is pools_of($t)->{'ngx_http_first_test_pool other'}[0] // 0, 2, 'after failures it counts all' or diag explain pools_of($t);
$fails->();
is pools_of($t)->{'ngx_http_first_test_pool other'}[0] // 0, 2, 'a failure changes nothing';
ok changed_code($t->master), 'the hooks stay';
--- error_log
192.0.2.1:1 failed

=== TEST 6: -t, -s and -V leave no trace
--- main_config
load_module $TEST_NGINX_BUILT_ngx_http_first_test_module;
--- config
location = /memstat { memstat; }
--- env
LD_PRELOAD=$TEST_NGINX_LIBRARY_clones
--- perl
my $trial = qr/^a trial process$/m;
like $t->output, $trial, 'a start tries its hooks';
my ($binary, $root, $conf) = (Test::Memstat::Configuration::binary(), $t->root, $t->conf_path);
my $clones = Test::Memstat::Build::library('clones');
my $run = sub {
    my $said = `LD_PRELOAD='$clones' '$binary' -p '$root/' -c '$conf' -e '$root/logs/error.log' @_ 2>&1`;
    return ($? >> 8, $said);
};
my ($before) = $t->workers;
my ($code, $said) = $run->('-t');
is_deeply [ $code, $said ], [ 0, "nginx: the configuration file $conf syntax is ok\n"
    . "nginx: configuration file $conf test is successful\n" ], '-t';
($code, $said) = $run->('-V');
is $code, 0, '-V';
unlike $said, $trial, 'tries none';
my $log = length $t->error_log;
is_deeply [ $run->('-s', 'reopen') ], [ 0, '' ], '-s';
unlike substr($t->error_log, $log), qr/memstat/, 'nothing in the log';
$t->write_conf(config => LOCATION . "\nno_such_directive;");
($code, $said) = $run->('-t');
is $code, 1, 'a wrong configuration is refused';
unlike $said, $trial, 'without a trial';
($code, $said) = $run->('-s', 'reload');
is $code, 1, 'also by -s';
unlike $said, $trial, 'without a trial';
is_deeply [ $t->workers ], [ $before ], 'the server is as it was';
--- error_log
unknown directive "no_such_directive"

=== TEST 7: a master that went into the background
--- perl
# nginx forks after it has read its configuration. The counts from before belong to the master, and so do
# those of a reload.
my %with = (main_config => MODULE, config => LOCATION, http_config => 'limit_req_zone $uri zone=a:64k rate=1r/s;');
my $more = 'limit_req_zone $uri zone=b:64k rate=1r/s; limit_req_zone $uri zone=a:64k rate=1r/s;';
my $front = Test::Memstat::Server->new(%with)->start;
my @front = (map { masters_counts($front, $_) } 'a', 'first_test');
$front->reload(http_config => $more);
push @front, map { masters_counts($front, $_) } 'a', 'b', 'first_test';
my $pools = pools_of($front);

my $d = Test::Memstat::Background->new(%with)->start;
eval {
    my @back = (map { masters_counts($d, $_) } 'a', 'first_test');
    $d->reload(http_config => $more)->old_gone;
    push @back, map { masters_counts($d, $_) } 'a', 'b', 'first_test';
    is_deeply \@back, \@front, 'the same counts as in the foreground' or diag explain [ \@back, \@front ];
    is_deeply pools_of($d), $pools, 'the same pools';
    my $pages = $d->fresh->{shared_zones}{memstat}{pages};
    is $pages->{reqs}, $front->fresh->{shared_zones}{memstat}{pages}{reqs}, 'and requests of whole pages';
    1;
} or fail "the test died: $@";
is $_, undef, 'nginx ends as told' for $front->stop, $d->stop;

=== TEST 8: a reload that drops Lua
--- config
location = /memstat { memstat; }
location = /lua { content_by_lua_block { ngx.say(collectgarbage('count')) } }
--- perl
my $master = $t->master;
for (1, 2) {
    $t->reload(config => LOCATION);
    my ($worker) = active_workers($t->fresh);
    is_deeply [ grep { $_->{vms} } @{ $worker->{lua} } ], [], 'no VM is left';
    $t->reload(config => LOCATION . ' location = /lua { content_by_lua_block { ngx.say(1) } }');
    ($worker) = active_workers($t->fresh);
    is lua_of($worker, 'http')->{vms}, 1, 'and Lua is back';
}
