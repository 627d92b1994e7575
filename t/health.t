# The health of the server: verdicts in words, in every format.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;
use Test::Memstat::Prometheus qw(series);

use JSON::PP;

# Returns the health in a fresh reply.
sub health { my ($t) = @_; return $t->fresh->{health} }

# Returns the ids of the verdicts with a status, or of all.
sub verdicts { my ($health, @status) = @_;
    return map { $_->{id} } grep { my $is = $_->{status}; !@status || grep { $_ eq $is } @status }
        @{ $health->{verdicts} };
}

# Returns a reply with these fields only, which is not valid by the schema.
sub narrowed { my ($t, $fields) = @_; return JSON::PP->new->utf8->decode($t->get("/memstat?fields=$fields")->{body}) }

run_tests();

__DATA__

=== TEST 1: a healthy server is green, in every format
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- perl
my $worker = ($t->workers)[0];
is_deeply health($t), { status => 'green', verdicts => [] }, 'JSON';
is_deeply narrowed($t, 'health'), { health => { status => 'green', verdicts => [] } }, 'fields=health';
is_deeply $t->memstat("/memstat?pid=$worker")->{health}, { status => 'green', verdicts => [] }, 'with pid=';
is $t->get('/memstat?format=text&fields=health')->{body}, "OK - nothing needs attention\n", 'for Nagios';
for my $query ('', "&pid=$worker", '&zone=memstat') {
    like $t->get("/memstat?format=text$query")->{body}, qr/\AHealth: green\nnginx /, "text$query";
    next if $query =~ /pid/;
    my $series = series($t->get("/memstat?format=prometheus$query")->{body});
    is $series->{"nginx_memstat_health{}"}, 0, "Prometheus$query";
    is_deeply [ grep { /^nginx_memstat_verdict\b/ } keys %$series ], [], 'no verdict';
}
my $page = $t->get('/memstat?format=html')->{body};
like $page, qr{<main id="main"><section [^>]*id="health".*?<span class="state good">green</span>}s, 'the page begins with it';
unlike $page, qr/class="notice"/, 'and warns of nothing';

=== TEST 2: a zone without room leads in every format, with the directive to change
--- main_config
worker_processes 2;
--- http_config
lua_shared_dict dict 1m;
--- config
location /memstat { memstat; }
include $TEST_NGINX_TESTS/dict_by_lua.conf;
--- perl
$t->get('/fill?key=k&length=4000&from=1&to=1000');
is_deeply health($t)->{status}, 'green', 'one failure is none';
$t->get("/set?key=more$_&length=4000") for 1 .. 20;
my $reply = $t->fresh;
my ($verdict) = @{ $reply->{health}{verdicts} };
is $reply->{health}{status}, 'red', 'red';
is $verdict->{id}, 'zone-failing', 'the rule';
is_deeply $verdict->{directive}, { name => 'lua_shared_dict', context => 'http', now => 'dict 1m', suggest => 'dict 1536k' }, 'the directive';
is_deeply $verdict->{affected}, { zones => ['dict'], processes => [] }, 'the zone';
my $zone = $reply->{shared_zones}{dict};
is $verdict->{evidence}{refused}, $zone->{failures}, 'what was refused';
is $verdict->{evidence}{$_}, $zone->{$_}, $_ for qw(failures fill_percent in_use size largest_allocation);
is_deeply [ verdicts($reply->{health}) ], ['zone-failing'], 'and nothing else';
my ($line, undef, @rest) = split /\n/, $t->get('/memstat?format=text&fields=health')->{body};
like $line, qr/^CRITICAL - There is no room in zone dict: 21 of \d+ requests/, 'for Nagios';
is $rest[0], 'zone-failing (red, measured)', 'then in full';
like $t->get('/memstat?format=text')->{body}, qr/\AHealth: red; 1 verdict: &fields=health\n- red: There is no room in zone dict/, 'the text';
my $series = series($t->get('/memstat?format=prometheus')->{body});
is $series->{'nginx_memstat_verdict{id="zone-failing",status="red"}'}, 1, 'Prometheus: the verdict';
is $series->{'nginx_memstat_health{}'}, 2, 'and the status';
like $t->get('/memstat?format=html')->{body}, qr{<main id="main"><section [^>]*id="health".*?There is no room in zone dict}s, 'the page';
is_deeply $t->memstat('/memstat?zone=memstat')->{health}, $t->memstat->{health}, 'so says an answer about another zone';

=== TEST 3: zones that are full by design are green
--- main_config
worker_processes 2;
--- http_config
lua_shared_dict dict 1m;
limit_req_zone $arg_key zone=limits:32k rate=1000r/s;
--- config
location /memstat { memstat; }
location /store {
    content_by_lua_block {
        for i = 1, 3000 do assert(ngx.shared.dict:set(ngx.var.arg_key .. i, string.rep("x", 900))) end
    }
}
location /limited { limit_req zone=limits burst=100000 nodelay; empty_gif; }
--- perl
is $t->get("/store?key=$_")->{status}, 200, 'a dict evicts the least recently used' for 'a', 'b';
my @refused = grep { $_ != 200 } map { $t->get("/limited?key=$_" . 'x' x 100)->{status} } 1 .. 400;
is_deeply \@refused, [], 'limits forget the oldest clients';
my $reply = $t->fresh;
my $zones = $reply->{shared_zones};
cmp_ok $zones->{$_}{failures}, '>', 100, "$_: allocations fail" for qw(dict limits);
is $reply->{health}{status}, 'green', 'and all is well' or diag explain $reply->{health};
is_deeply [ sort map { "@{ $_->{affected}{zones} } $_->{id} $_->{status}" } @{ $reply->{health}{verdicts} } ],
    [ 'dict zone-evicts info', 'limits zone-evicts info' ], 'which the remarks say';
like $t->get('/memstat?format=text')->{body}, qr/\AHealth: green; 2 remarks: &fields=health\nnginx /, 'the text';
like $t->get('/memstat?format=text&fields=health')->{body}, qr/\AOK - nothing needs attention, remarks: 2\n\n/, 'for Nagios';

=== TEST 4: a stopped collector
--- http_config
init_by_lua_block { kept = {} }
--- config
location /memstat { memstat; }
location /keep {
    content_by_lua_block {
        collectgarbage("stop")
        for i = 1, 20 do kept[#kept + 1] = string.rep("x", 1048576) .. #kept end
        ngx.say("ok")
    }
}
--- perl
is $t->get('/keep')->{status}, 200, 'Lua keeps 20 MB';
my $health = health($t);
is $health->{status}, 'yellow', 'yellow';
is $health->{verdicts}[0]{id}, 'lua-gc-stopped', 'the rule';
is_deeply $health->{verdicts}[0]{affected}{processes}, [ $t->workers ], 'the worker';
like $t->get('/memstat?format=text&fields=health')->{body}, qr/^WARNING - Lua's garbage collector is stopped in worker 0; worker 0 counts \d/, 'for Nagios';

=== TEST 5: arrays for many connections, and old workers that clients hold
--- main_config
worker_processes 3;
events {
    worker_connections 65535;
}
--- config
location /memstat { memstat; }
location /slow { proxy_pass http://127.0.0.1:$TEST_NGINX_PORT_1; }
--- perl
my $upstream = silent_server($t->port(1));
my $reply = $t->fresh;
my ($verdict) = @{ $reply->{health}{verdicts} };
is $reply->{health}{status}, 'green', 'green';
is_deeply [ map { "$_->{id} $_->{status}" } @{ $reply->{health}{verdicts} } ], ['worker-connections-large info'], 'a remark'
    or diag explain $reply->{health};
my $arrays = sum(map { values %{ $_->{allocator}{nginx} } } active_workers($reply));
is $verdict->{evidence}{bytes}, $arrays, 'about the arrays';
is $verdict->{directive}{name}, 'worker_connections', 'the directive';
is_deeply pids(map { { pid => $_ } } @{ $verdict->{affected}{processes} }), [ $t->workers ], 'the workers';

my @held;
for (1 .. 3) {
    push @held, [ held($t, $upstream, '/slow') ];
    is_deeply [ grep { $_ eq 'reload-pileup' } verdicts(health($t)) ], [], 'not yet';
    $t->reload;
}
# The workers without a request end.
$t->wait_for('three old workers', sub { 3 == process_with($t->fresh, state => 'shutting_down') });
$reply = $t->fresh;
($verdict) = grep { $_->{id} eq 'reload-pileup' } @{ $reply->{health}{verdicts} };
my @old = process_with($reply, state => 'shutting_down');
is_deeply pids(map { { pid => $_ } } @{ $verdict->{affected}{processes} }), pids(@old), 'old workers of three configurations';
is $verdict->{status}, 'info', 'a remark, because they are small';
my $evidence = $verdict->{evidence};
is $evidence->{bytes}, sum(map { $_->{system}{resident_private} } @old), 'what they hold';
is_deeply [ @$evidence{qw(workers configurations oldest_generation newest_generation)} ], [ 3, 3, 1, 4 ], 'and since when';
is $verdict->{directive}{name}, 'worker_shutdown_timeout', 'the directive';
$_->[1][0]->close for @held;
$t->old_gone;
is_deeply [ grep { $_ eq 'reload-pileup' } verdicts(health($t)) ], [], 'it is over when they are gone';
