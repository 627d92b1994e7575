# The creators of pools, by name and kind.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;
use Test::Memstat::Pools;

use IO::Socket::INET;

run_tests();

__DATA__

=== TEST 1: creators of pools
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
# Each request for /memstat also creates a connection and a request.
my $get = sub { is $t->get('/empty')->{status}, 200, 'an answer' };
is grown($t, $get, creator => qr/^ngx_http_(?:create|alloc)_request$/, kind => 'request'), 2, 'requests';
is grown($t, $get, creator => 'ngx_event_accept', kind => 'connection'), 2, 'connections';
# An nginx that is not stripped has the names of static functions.
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

=== TEST 2: creators of pools in Lua
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

=== TEST 3: a pool that each request leaks
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
