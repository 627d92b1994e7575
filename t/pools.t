# Pools: each figure by what a test did, or by a walk from outside.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

use IO::Socket::INET;

use Test::Memstat::Build qw(program);

my @SUMS = qw(live created destroyed reset bytes unused large_bytes large_count);

# The pools of every process that tells them, by pid; what has to be true of any is checked.
sub pools_of {
    my ($reply) = @_;
    my %pools;
    my @wrong;
    for my $process (@{ $reply->{processes} }) {
        my $pools = $process->{pools} // next;
        my $pid = $process->{pid};
        $pools{$pid} = $pools;
        for my $figure (@SUMS) {
            my $sum = sum(map { $_->{$figure} } @{ $pools->{by_creator} });
            push @wrong, "$pid: $figure $pools->{$figure}, by creators $sum" if $sum != $pools->{$figure};
        }
        for my $creator (@{ $pools->{by_creator} }) {
            my $live = $creator->{created} - $creator->{destroyed};
            push @wrong, "$pid: $creator->{live} live, not $live" if $creator->{live} != $live;
            my $sizes = sum(values %{ $creator->{sizes} });
            push @wrong, "$pid: $creator->{destroyed} destroyed, $sizes by size"
                if $sizes != $creator->{destroyed};
            push @wrong, "$pid: $creator->{unused} unused of $creator->{bytes}"
                if $creator->{unused} > $creator->{bytes};
        }
        my $allocator = $process->{allocator};
        my $held = $pools->{bytes} + $pools->{large_bytes};
        push @wrong, "$pid: $held held, $allocator->{pools} in the allocator"
            if $held != $allocator->{pools};
        push @wrong, "$pid: $held held, $allocator->{in_use} in use"
            if defined $allocator->{in_use} && $held > $allocator->{in_use};
        push @wrong, "$pid: hooks $process->{hooks}{pool}" if $process->{hooks}{pool} ne 'on';
    }
    is join("\n", @wrong), '', 'the figures fit together';
    return \%pools;
}

# Over all processes, the sum of a figure of the creators with these values.
sub of_creators {
    my ($pools, $figure, %values) = @_;
    return sum(map { $_->{$figure} } grep { has($_, %values) } map { @{ $_->{by_creator} } } values %$pools);
}

sub has {
    my ($thing, %values) = @_;
    my $is = sub { my ($is, $value) = @_; return ref $value ? $is =~ $value : $is eq $value };
    return !grep { !$is->($thing->{$_} // '', $values{$_}) } keys %values;
}

# What a program of its own finds in a pool of a process: see t/tools/pool.c.
sub walk {
    my ($pid, @where) = @_;
    my @command = (program('pool'), $pid, @where);
    open my $out, '-|', @command or die "cannot run @command: $!\n";
    my %found = map { /^(\S+) (\d+)$/ ? ($1 => $2) : () } <$out>;
    close $out or die "@command failed\n";
    return \%found;
}

# The same of the pool of the cycle of a process.
sub walk_cycle {
    my ($pid) = @_;
    my ($path) = readlink "/proc/$pid/exe";
    my ($offset) = `nm -D '$path'` =~ /^(\w+) \w ngx_cycle\b/m or die "no ngx_cycle in $path\n";
    my ($map) = grep { $_->{path} eq $path } maps($pid);
    return walk($pid, 'cycle', sprintf '%x', $map->{from} + hex $offset);
}

# How many more pools the creators with these values have created after doing something.
sub grown {
    my ($t, $do, %values) = @_;
    my $before = of_creators(pools_of($t->fresh), 'created', %values);
    $do->();
    return of_creators(pools_of($t->fresh), 'created', %values) - $before;
}

run_tests();

__DATA__

=== TEST 1: 500 idle connections
--- main_config
worker_processes 2;
events { worker_connections 1024; }
--- http_config
connection_pool_size 768;
keepalive_timeout 60s;
--- config
location /memstat { memstat; }
location /empty { return 204; }
--- perl
my %kind = (kind => 'connection');
my $before = pools_of($t->fresh);
is of_creators($before, 'live', %kind), 1, 'the asking one';
my @clients = map { $t->connect->send(GET => '/empty') } 1 .. 500;
$_->receive for @clients;
my $during = pools_of($t->fresh);
is of_creators($during, 'live', %kind), 501, 'and 500';
is of_creators($during, 'bytes', %kind), 501 * 768, 'each with its block';
is of_creators($during, 'large_count', %kind), 1, 'only the asking one has its buffer';
is of_creators($during, 'live', kind => 'request'), 1, 'requests are gone';
is of_creators($during, 'destroyed', kind => 'request') - of_creators($before, 'destroyed', kind => 'request'),
    501, 'as many as there were';
my ($creator) = grep { $_->{kind} eq 'connection' } map { @{ $_->{by_creator} } } values %$during;
is $creator->{creator}, 'ngx_event_accept', 'their creator';
is $creator->{object}, 'nginx', 'and where it is';
my @listed = grep { $_->{kind} eq 'connection' } map { @{ $_->{oldest} } } values %$during;
is_deeply { map { $_->{server_name} => 1 } @listed }, { localhost => 1 }, 'their server';
$_->close for @clients;
$t->wait_for('the connections are closed', sub {
    of_creators(pools_of($t->fresh), 'live', %kind) == 1;
});
my $after = pools_of($t->fresh);
is of_creators($after, 'bytes', %kind), of_creators($before, 'bytes', %kind), 'as before';
cmp_ok of_creators($after, 'destroyed', %kind) - of_creators($before, 'destroyed', %kind), '>=', 501,
    'and counted';

=== TEST 2: requests that wait for their upstream
--- main_config
worker_processes 2;
--- config
memstat_uri on;
location /memstat { memstat; memstat_uri off; }
location /uri { memstat; }
location /slow { proxy_pass http://127.0.0.1:$TEST_NGINX_PORT_1; }
--- perl
my $upstream = silent_server($t->port(1));
my @clients = map { $t->connect->send(GET => "/slow?secret=$_") } 1 .. 20;
my @held = map { scalar $upstream->accept } @clients;
my $aged = sub { my ($reply) = @_;
    return grep { $_->{kind} eq 'request' && $_->{age_s} > 0 } map { @{ $_->{pools}{oldest} // [] } } @{ $reply->{processes} } };
my $reply = $t->wait_for('they are a second old', sub { my $reply = $t->fresh; $aged->($reply) ? $reply : undef });
my $pools = pools_of($reply);
is of_creators($pools, 'live', kind => 'request'), 21, 'twenty and the asking one';
is of_creators($pools, 'live', kind => 'upstream'), 20, 'each with a connection to its upstream';
my @oldest = $aged->($reply);
# An nginx that is not stripped names the static function that it calls.
like $_->{creator}, qr/^ngx_http_(?:create|alloc)_request$/, 'by their creator' for @oldest;
is_deeply { map { $_->{server_name} => 1 } @oldest }, { localhost => 1 }, 'and their server';
is_deeply [ grep { defined $_->{request} } map { @{ $_->{oldest} }, @{ $_->{largest} } } values %$pools ],
    [], 'request lines are not told';
unlike $t->get('/memstat')->{body}, qr/secret/, 'anywhere';

my $uris = pools_of($t->fresh('/uri'));
my @lines = map { $_->{request} // () } map { @{ $_->{oldest} } } values %$uris;
my @secrets = grep { m{^GET /slow\?secret=\d+ HTTP/1\.1$} } @lines;
cmp_ok scalar(@secrets), '>=', 1, 'unless that is wanted' or diag "@lines";

my $age = sub { (sort { $b <=> $a } map { $_->{age_s} } @{ $_[0] })[0] };
my $first = $age->(\@oldest);
$t->wait_for('they grow older', sub { $age->([ $aged->($t->fresh) ]) > $first });

for my $socket (@held) {
    $socket->syswrite("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    $socket->close;
}
is $_->receive->{body}, 'ok', 'answered' for @clients[ 0, 19 ];
$_->receive for @clients[ 1 .. 18 ];
$t->wait_for('the requests are gone', sub {
    of_creators(pools_of($t->fresh), 'live', kind => 'request') == 1;
});
is of_creators(pools_of($t->fresh), 'live', kind => 'upstream'), 0, 'and their upstreams';

=== TEST 3: blocks and large allocations, against the pool's own headers and malloc's
--- main_config
load_module $TEST_NGINX_BUILT_ngx_http_pool_test_module;
worker_processes 1;
--- http_config
request_pool_size 32k;
--- config
location /memstat { memstat; }
location /blocks { pool_test_hold 100000 0 0; }
location /large { pool_test_hold 500 300000 7; }
location /odd { pool_test_hold 12345 5003 100; }
--- perl
my ($worker) = $t->workers;
for my $path (qw(/blocks /large /odd)) {
    my $client = $t->connect->send(GET => $path);
    my $before = length $t->error_log;
    my ($address) = $t->wait_for('the request is held', sub {
        $t->error_log =~ /pool_test holds 0*([0-9A-F]+).*?"GET \Q$path\E/;
    }) && $t->error_log =~ /pool_test holds 0*([0-9A-F]+).*?"GET \Q$path\E/;
    my $walked = walk($worker, $address);
    my $pools = pools_of($t->fresh)->{$worker};
    my ($largest) = grep { $_->{kind} eq 'request' } @{ $pools->{largest} };
    is $largest->{bytes}, $walked->{bytes}, "$path: blocks";
    is $largest->{large_bytes}, $walked->{large_bytes}, "$path: large allocations";
    my ($creator) = grep { $_->{kind} eq 'request' } @{ $pools->{by_creator} };
    is $creator->{live}, 2, "$path: it and the asking one";
    cmp_ok $creator->{bytes} - $walked->{bytes}, '>=', 32768, "$path: the creator has both";
    is $creator->{large_count} - $walked->{large_count}, 0, "$path: and the large ones of one";
    cmp_ok $creator->{peak_bytes}, '>=', $walked->{bytes} + $walked->{large_bytes}, "$path: the largest yet";
    near $creator->{unused} - $walked->{unused}, $creator->{bytes} - $walked->{bytes}, 32768,
        "$path: unused";
    $client->close;
    # The handler never answers: nginx keeps the request until the worker ends.
    $t->reload;
    ($worker) = $t->workers;
}
--- error_log
open socket #\d+ left in connection
aborting

=== TEST 4: created is live and destroyed, at every moment
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
location /file { root $TEST_NGINX_SERVER_ROOT/html; }
--- user_files
>>> file
content
--- perl
my $loader = fork // die "cannot fork: $!\n";
if (!$loader) {
    $SIG{TERM} = sub { POSIX::_exit(0) };
    while (1) {
        my $client = $t->connect;
        $client->send(GET => '/file')->receive for 1 .. 20;
        $client->close;
    }
}
my $last = 0;
for (1 .. 40) {
    my $pools = pools_of($t->fresh);
    my $created = of_creators($pools, 'created', kind => 'request');
    cmp_ok $created, '>=', $last, 'it goes on';
    $last = $created;
}
kill TERM => $loader;
waitpid $loader, 0;
cmp_ok $last, '>', 500, 'there was load';

=== TEST 5: who creates pools
--- main_config
worker_processes 1;
stream {
    server {
        listen 127.0.0.1:$TEST_NGINX_PORT_1;
        proxy_pass 127.0.0.1:$TEST_NGINX_SERVER_PORT;
    }
}
--- http_config
upstream kept {
    server 127.0.0.1:$TEST_NGINX_SERVER_PORT;
    keepalive 4;
}
server {
    listen 127.0.0.1:$TEST_NGINX_PORT_2 http2;
    server_name two;
    location / { return 204; }
}
--- config
location /memstat { memstat; }
location /empty { return 200 "empty\n"; }
location /kept {
    proxy_pass http://kept/empty;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
}
--- perl
# Each answer to /memstat is a connection and a request itself.
my $get = sub { is $t->get('/empty')->{status}, 200, 'an answer' };
is grown($t, $get, creator => qr/^ngx_http_(?:create|alloc)_request$/, kind => 'request'), 2, 'requests';
is grown($t, $get, creator => 'ngx_event_accept', kind => 'connection'), 2, 'connections';
# An nginx that is not stripped names static functions.
my %upstream = (creator => qr/^ngx_http_upstream_(?:\*|connect)$/, kind => 'upstream', object => 'nginx');
my $proxied = sub { is $t->get('/kept')->{body}, "empty\n", 'proxied' for 1 .. 3 };
is grown($t, $proxied, %upstream), 1, 'an upstream connection is kept';
is of_creators(pools_of($t->fresh), 'live', %upstream), 1, 'and stays live';

my $live = of_creators(pools_of($t->fresh), 'live', kind => 'connection');
my $stream = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $t->port(1));
$t->wait_for('a session of stream, and its connection to this server', sub {
    of_creators(pools_of($t->fresh), 'live', kind => 'connection') == $live + 2;
});
$stream->close;

my $http2 = 'http://127.0.0.1:' . $t->port(2) . '/';
my $curl = sub {
    for (1 .. 3) {
        my $said = `curl -s -o /dev/null -w '%{http_version} %{http_code}' --http2-prior-knowledge $http2`;
        is $said, '2 204', 'a stream of HTTP/2';
    }
};
my %stream = (creator => qr/^ngx_http_v2_(?:\*|state_headers?)$/, kind => 'http2_stream', object => 'nginx');
is grown($t, $curl, %stream), 3, 'a pool for the header of each';
my %connection = (creator => 'ngx_http_v2_init', kind => 'connection', object => 'nginx');
is grown($t, $curl, %connection), 3, 'and one for each connection';
is grown($t, $curl, kind => 'request'), 3 + 1, 'and as ever for each request';

=== TEST 6: who creates pools in Lua
--- main_config
worker_processes 1;
--- http_config
init_worker_by_lua_block { ngx.timer.every(60, function () end) }
--- config
location /memstat { memstat; }
location /empty { return 200 "empty\n"; }
location /capture {
    content_by_lua_block { ngx.say(ngx.location.capture("/empty").body) }
}
location /cosocket {
    content_by_lua_block {
        local socket = ngx.socket.tcp()
        assert(socket:connect("127.0.0.1", $TEST_NGINX_SERVER_PORT))
        assert(socket:send("GET /empty HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        assert(socket:receiveuntil("empty\n")())
        assert(socket:setkeepalive(60000))
        ngx.say("kept")
    }
}
location /timer {
    content_by_lua_block {
        assert(ngx.timer.at(0, function () ngx.log(ngx.NOTICE, "timer ran") end))
        ngx.say("set")
    }
}
--- perl
my $get = sub { my ($path) = @_; return sub { is $t->get($path)->{status}, 200, "$path answers" } };
my %lua = (kind => 'lua', object => 'ngx_http_lua_module.so');
is grown($t, $get->('/capture'), kind => 'request'), 2, 'a subrequest has no pool of its own';
is grown($t, $get->('/cosocket'), %lua), 1, 'a cosocket that is kept has';
my $live = of_creators(pools_of($t->fresh), 'live', %lua);
cmp_ok $live, '>=', 2, 'it is live, and so is the timer of the worker';
cmp_ok grown($t, sub {
    $get->('/timer')->();
    $t->wait_for('the timer', sub { $t->error_log =~ /timer ran/ });
}, %lua), '>=', 1, 'a timer has';
is of_creators(pools_of($t->fresh), 'live', %lua), $live, 'until it has run';
my @names = map { $_->{creator} } grep { has($_, %lua) } map { @{ $_->{by_creator} } } values %{ pools_of($t->fresh) };
like $_, qr/^ngx_http_lua_/, "a name of the Lua module: $_" for @names;

=== TEST 7: a pool that is forgotten at each request
--- main_config
load_module $TEST_NGINX_BUILT_ngx_http_pool_test_module;
worker_processes 1;
--- config
location /memstat { memstat; }
location /leak { pool_test_leak 2000; }
location /reset { pool_test_reset 3000; }
--- perl
my ($worker) = $t->workers;
$t->get('/leak') for 1 .. 30;
my $pools = $t->wait_for('all are a second old', sub {
    my $pools = process_of($t->fresh, $worker)->{pools};
    return 10 == grep({ $_->{kind} eq 'other' && $_->{age_s} >= 1 } @{ $pools->{oldest} }) && $pools;
});
my %leak = (object => 'ngx_http_pool_test_module.so', kind => 'other');
my ($creator) = grep { has($_, %leak) } @{ $pools->{by_creator} };
is $creator->{creator}, 'ngx_http_pool_test_leak', 'a static function, by the name in its file';
is_deeply [ @$creator{qw(live created destroyed bytes)} ], [ 30, 30, 0, 30 * 2000 ], 'all are live';
is_deeply [ map { $_->{kind} } @{ $pools->{oldest} } ], [ ('other') x 10 ], 'and the oldest there are';

$t->get('/reset') for 1 .. 3;
my ($reset) = grep { has($_, %leak, creator => 'ngx_http_pool_test_reset') } @{ pools_of($t->fresh)->{$worker}{by_creator} };
is_deeply [ @$reset{qw(live created destroyed reset)} ], [ 0, 3, 3, 3 ], 'resets are counted, apart from the others';
cmp_ok $reset->{peak_bytes}, '>=', 3000 + 30000, 'with what the pool held until then';
is_deeply $reset->{sizes}, { 4096 => 3 }, 'and what it held at its end';

=== TEST 8: two thousand servers
--- main_config
worker_processes 1;
--- config
location /memstat { memstat; }
--- perl
$t->reload(http_config => join "\n", map {
    "server { listen 127.0.0.1:\$TEST_NGINX_PORT_1; server_name s$_.example www.s$_.example; location / { root /srv/$_; } }"
} 1 .. 2000);
my ($worker) = $t->workers;
my $pools = pools_of($t->fresh)->{$worker};
my ($cycle) = @{ $pools->{cycles} };
my $walked = walk_cycle($worker);
cmp_ok $walked->{bytes} + $walked->{large_bytes}, '>', 2000 * 2000, 'a large cycle';
is $cycle->{bytes}, $walked->{bytes}, 'its blocks';
is $cycle->{large_bytes}, $walked->{large_bytes}, 'its large allocations';
my ($creator) = grep { $_->{kind} eq 'cycle' } @{ $pools->{by_creator} };
is $creator->{unused}, $walked->{unused}, 'what is unused';
is $creator->{large_count}, $walked->{large_count}, 'the number of large ones';
is_deeply $pools->{largest}[0], $cycle, 'it is the largest';

=== TEST 9: the cycles of two generations
--- main_config
worker_processes 1;
--- config
location /memstat { memstat; }
location /slow { proxy_pass http://127.0.0.1:$TEST_NGINX_PORT_1; }
--- perl
my $upstream = silent_server($t->port(1));
my ($old) = $t->workers;
my ($first) = @{ pools_of($t->fresh)->{$old}{cycles} };
is_deeply [ @$first{qw(creator kind generation)} ], [ 'ngx_init_cycle', 'cycle', 1 ], 'the first cycle';
my $client = $t->connect->send(GET => '/slow');
my $held = scalar $upstream->accept;
$t->reload(http_config => join "\n", map {
    "server { listen 127.0.0.1:\$TEST_NGINX_PORT_2; server_name s$_.example; }"
} 1 .. 100);
my ($new) = $t->workers;
my $pools = pools_of($t->fresh);
is_deeply $pools->{$old}{cycles}[0], { %$first, age_s => $pools->{$old}{cycles}[0]{age_s} },
    'the old worker has its own still';
my ($second) = @{ $pools->{$new}{cycles} };
is $second->{generation}, 2, 'the new one has the second';
is scalar @{ $pools->{$new}{cycles} }, 1, 'and no other';
my $walked = walk_cycle($new);
is $second->{bytes} + $second->{large_bytes}, $walked->{bytes} + $walked->{large_bytes}, 'as large as it is';
my ($creator) = grep { $_->{kind} eq 'cycle' } @{ $pools->{$new}{by_creator} };
is_deeply [ @$creator{qw(live created destroyed)} ], [ 1, 2, 1 ], 'the first one ended in the master';
my %conf = (kind => 'conf', creator => 'ngx_init_cycle');
is of_creators({ new => $pools->{$new} }, 'live', %conf), 0, 'and so did what reads configurations';
cmp_ok of_creators({ new => $pools->{$new} }, 'created', %conf), '>=', 1, 'which was seen';
$held->close;
$client->close;

=== TEST 10: without the hooks
--- main_config
worker_processes 1;
memstat_hooks lua thread;
--- config
location /memstat { memstat; }
--- perl
my ($worker) = $t->workers;
my $process = process_of($t->memstat, $worker);
is $process->{pools}, undef, 'no pools';
is $process->{allocator}{pools}, undef, 'nor how much of the heap they are';
is $process->{hooks}{pool}, 'off: not among memstat_hooks', 'why';
is scalar(grep { $_ eq 'pools, allocator.pools: not among memstat_hooks' } @{ $process->{notes} }), 1, 'and again';
my $patched = sub {
    return sum(map { $_->{size} / page_size() } grep { $_->{rights} =~ /x/ && $_->{path} eq '' } maps($_[0]));
};
is $patched->($worker), 0, 'no code of ours';

$t->reload(main_config => 'worker_processes 1;');
($worker) = $t->workers;
is $patched->($worker), 3, 'after a reload with them a page of it, one for what is given back, one for zones';
is scalar(grep { $_->{rights} =~ /wx/ } maps($worker)), 0, 'which nobody can write to';
my $pools = pools_of($t->fresh)->{$worker};
is scalar @{ $pools->{cycles} }, 1, 'and pools';

$t->reload(main_config => 'worker_processes 1; memstat_hooks off;');
($worker) = $t->workers;
is process_of($t->fresh, $worker)->{pools}, undef, 'and without them none';
$t->get('/memstat') for 1 .. 3;

$t->reload(main_config => 'worker_processes 1;');
($worker) = $t->workers;
is scalar @{ pools_of($t->fresh)->{$worker}{cycles} }, 1, 'and again';
is $patched->($worker), 3, 'in the same pages';
--- no_error_log
no hook on

=== TEST 11: one process
--- main_config
master_process off;
--- config
location /memstat { memstat; }
location /empty { return 204; }
--- perl
my $pools = pools_of($t->fresh);
is_deeply [ map { $_->{cycles}[0]{generation} } values %$pools ], [1], 'its cycle';
$t->get('/empty') for 1 .. 5;
is of_creators(pools_of($t->fresh), 'created', kind => 'request')
    - of_creators($pools, 'created', kind => 'request'), 6, 'its requests';
