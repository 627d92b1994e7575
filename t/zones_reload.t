# Shared memory zones that are created, removed and changed by reloads, and their counts when hooks and workers
# come and go.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;
use Test::Memstat::Dict;
use Test::Memstat::Zone;

use constant { KB => 1024, MB => 1048576, PAGE => page_size() };

run_tests();

__DATA__

=== TEST 1: a reload changes one zone and drops another
--- http_config
lua_shared_dict dict 1m;
lua_shared_dict gone 1040k;
lua_shared_dict kept 1056k;
--- config
location /memstat { memstat; }
location /old {
    content_by_lua_block {
        for i = 1, 20 do
            assert(ngx.shared.dict:safe_set(i, string.rep("x", 8000)))
            assert(ngx.shared.gone:safe_set(i, string.rep("x", 12000)))
        end
        ngx.say(ngx.worker.pid())
    }
}
include $TEST_NGINX_TESTS/dict_by_lua.conf;
--- perl
my ($old) = $t->workers;
get($t, '/old');
my $before = $t->fresh->{shared_zones};
my $held = $t->connect->send(GET => '/hold');
$held->begin;
$t->reload(http_config => 'lua_shared_dict dict 2m; lua_shared_dict kept 1056k; lua_shared_dict more 3m;');
my ($new) = $t->workers;
my $reply = $t->fresh('/memstat?refresh=zones');
my $zones = $reply->{shared_zones};
is $reply->{answered_by}{pid}, $new, 'the new worker answers';
my $of = sub { my ($zone) = @_; [ map { ref ? !!1 == $_ : $_ } @$zone{qw(generation size)}, $zone->{current} ? 1 : 0 ] };
is_deeply $of->($zones->{dict}), [ 2, 2 * MB, 1 ], 'dict: the new mapping';
is_deeply [ map { $of->($_) } @{ $zones->{dict}{older} } ], [ [ 1, MB, 0 ] ], 'dict: the old mapping';
is_deeply $of->($zones->{gone}), [ 1, 1040 * KB, 0 ], 'gone: only the old worker has it';
is_deeply $of->($zones->{kept}), [ 1, 1056 * KB, 1 ], 'kept: it is the mapping of before';
is_deeply $of->($zones->{more}), [ 2, 3 * MB, 1 ], 'more: new';
agrees($old, $zones->{dict}{older}[0], 'dict: the old one is read by the old worker');
agrees($old, $zones->{gone}, 'gone: too');
agrees($new, $zones->{$_}, "$_: by the new worker") for qw(dict kept more);
is $zones->{gone}{resident}, $before->{gone}{resident}, 'gone: still in RAM';
cmp_ok $zones->{gone}{resident}, '>=', 20 * 12000, 'gone: all that was put there';
my $all = sum(map { $_->{resident}, map { $_->{resident} } @{ $_->{older} } } values %$zones);
is $reply->{totals}{shared_memory}, $all, 'each mapping counts once';
my ($theirs, $ours) = map { process_of($reply, $_)->{zones} } $old, $new;
is $theirs->{dict}{mapped}, MB, 'the old worker has the old one';
is $ours->{dict}{mapped}, 2 * MB, 'the new worker has the new one';
is $theirs->{gone}{allocations}, 20, 'what the old worker did is still there';
ok !exists $ours->{gone}, 'what it has not mapped is not the new worker\'s';
is $ours->{dict}{allocations}, 0, 'the new worker begins with nothing';
my $text = $t->get('/memstat?format=text&fields=shared_zones')->{body};
like $text, qr/^gone +1 old /m, 'old mappings are marked in the table';
like $t->get('/memstat?format=text')->{body}, qr/^gone \(old\) /m, 'and on the screen';

open my $release, '>', $t->root . '/html/release' or die;
close $release;
$t->old_gone;
$zones = $t->fresh->{shared_zones};
is_deeply $zones->{dict}{older}, [], 'dict: the old mapping is gone';
ok !exists $zones->{gone}, 'gone: gone';
is $zones->{kept}{generation}, 1, 'kept: is kept';

=== TEST 2: without the hooks
--- main_config
memstat_hooks thread;
--- http_config
lua_shared_dict dict 1m;
--- config
location /memstat { memstat; }
include $TEST_NGINX_TESTS/dict_by_lua.conf;
--- perl
fill($t, 'k', 3000, 1, 50);
my ($worker) = $t->workers;
my $reply = $t->fresh;
my $zone = $reply->{shared_zones}{dict};
my $process = process_of($reply, $worker);
like $process->{hooks}{slab}, qr/^off: not among memstat_hooks/, 'the hook is off';
agrees($worker, $zone, 'the zone itself is read all the same');
is $zone->{$_}, undef, "$_ is not known" for qw(failures generation);
like "@{ $zone->{notes} }", qr/failures.*the slab hook/, 'why';
is $process->{zones}{dict}{$_}, undef, "$_ is not known" for qw(allocations frees failures bytes_requested);
like "@{ $process->{notes} }", qr/without the slab hook/, 'why';
is $process->{zones}{dict}{mapped}, MB, 'mapped is known';
cmp_ok $process->{zones}{dict}{touched}, '>=', 50 * PAGE, 'touched too';
ok exists $reply->{shared_zones}{nginx_shared_zone}, 'the counters of nginx are found';
ok !exists $reply->{shared_zones}{memstat_counters}, 'there are none of our own';

# Old and new mappings look the same, so the total is unknown while both may exist.
my $held = $t->connect->send(GET => '/hold');
$held->begin;
$t->reload;
$reply = $t->fresh;
is $reply->{totals}{shared_memory}, undef, 'the total is not known';
like "@{ process_of($reply, $reply->{answered_by}{pid})->{notes} }",
    qr/totals.shared_memory: without the slab hook .* process $worker /, 'why';
open my $release, '>', $t->root . '/html/release' or die;
close $release;
$t->old_gone;
isnt $t->fresh->{totals}{shared_memory}, undef, 'it is known again';

# A reload enables the hook: older zones are marked as such, new ones are counted.
my $on = "memstat_hooks on;\n";
$t->reload(main_config => $on, http_config => 'lua_shared_dict dict 1m; lua_shared_dict more 2m;')->old_gone;
my $zones = $t->fresh->{shared_zones};
is $zones->{dict}{generation}, undef, 'dict is older than the hook';
is $zones->{more}{generation}, 3, 'more is not';
is $zones->{dict}{failures}, 0, 'failures are counted from now on';
fill($t, 'm', 3000, 1, 10);
($worker) = $t->workers;
is process_of($t->fresh, $worker)->{zones}{dict}{allocations}, 10, 'so are allocations';

# A reload disables it again.
$t->reload(main_config => "memstat_hooks off;\n")->old_gone;
($worker) = $t->workers;
fill($t, 'n', 3000, 1, 10);
is process_of($t->fresh, $worker)->{zones}{dict}{allocations}, undef, 'nothing is counted any more';

=== TEST 3: a few hundred zones
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- perl
my $zones = join '', map { "limit_req_zone \$uri zone=a_name_that_is_somewhat_longer_$_:32k rate=1r/s;\n" } 1 .. 600;
$t->reload(http_config => $zones);
my $reply = $t->fresh;
is scalar(grep { /^a_name/ } keys %{ $reply->{shared_zones} }), 600, 'all are there';
my @known = grep { defined $_->{pages} } values %{ $reply->{shared_zones} };
cmp_ok scalar(@known), '>=', 600, 'and read';
for my $process (active_workers($reply)) {
    cmp_ok scalar(keys %{ $process->{zones} }), '>', 50, 'each worker tells of many';
    like "@{ $process->{notes} }", qr/zones: \d+ of 60\d are here/, 'and of how many it does not';
}
isnt $reply->{totals}{shared_memory}, undef, 'the total is known';

=== TEST 4: a reload that fails changes nothing
--- http_config
lua_shared_dict dict 1m;
--- config
location /memstat { memstat; }
include $TEST_NGINX_TESTS/dict_by_lua.conf;
--- error_log
mmap\(.*\) failed
--- perl
fill($t, 'k', 3000, 1, 20);
my ($worker) = $t->workers;
my $before = $t->fresh->{shared_zones};
# nginx can create the first zone, but not the second one.
$t->write_conf(http_config => "lua_shared_dict dict 2m;\nlua_shared_dict huge 100000000m;");
$t->signal('HUP');
$t->wait_for('the refusal', sub { $t->error_log =~ /\[alert\].*mmap/ });
fill($t, 'l', 3000, 1, 20);
my $reply = $t->fresh;
is_deeply [ sort keys %{ $reply->{shared_zones} } ], [ sort keys %$before ], 'the same zones';
is $reply->{shared_zones}{dict}{generation}, 1, 'of the same generation';
is process_of($reply, $worker)->{zones}{dict}{allocations}, 40, 'still counted';
is all_did($reply, 'dict', qw(allocations failures)), all_reqs($reply, 'dict'), 'adds up';
$t->reload(http_config => "lua_shared_dict dict 2m;")->old_gone;
$reply = $t->fresh;
is $reply->{shared_zones}{dict}{generation}, 2, 'the next one goes through';
is all_did($reply, 'dict', qw(allocations failures)), all_reqs($reply, 'dict'), 'adds up in the new zone';

=== TEST 5: the counts of a killed worker are lost, those of the zone are not
--- http_config
lua_shared_dict dict 1m;
--- config
location /memstat { memstat; }
include $TEST_NGINX_TESTS/dict_by_lua.conf;
--- error_log
exited on signal 9
--- perl
is set($t, 'k', 2000000), 'no memory', 'a failure';
fill($t, 'k', 3000, 1, 20);
my ($killed) = $t->workers;
my $before = $t->fresh->{shared_zones}{dict};
$t->signal('KILL', $killed);
my $worker = $t->successor_of($killed);
my $reply = $t->fresh;
is process_of($reply, $worker)->{zones}{dict}{$_}, 0, "$_: it begins at 0" for qw(allocations failures);
is_deeply $reply->{shared_zones}{dict}{pages}, $before->{pages}, 'the zone has its figures';
is $reply->{shared_zones}{dict}{failures}, 1, 'the failure is not forgotten';
fill($t, 'l', 3000, 1, 7);
is process_of($t->fresh, $worker)->{zones}{dict}{allocations}, 7, 'it counts for itself';
