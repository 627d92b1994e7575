# The dashboard and the alert rules, and that the metrics that they use exist.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;
use Test::Memstat::Prometheus qw(series);

use JSON::PP;

use constant FOLDER => "$FindBin::Bin/../monitoring";

# Runs promtool on files in the folder. Returns its output.
sub said {
    my ($command) = @_;
    my $said = `cd '@{[ FOLDER ]}' && promtool $command 2>&1`;
    return ($? == 0, $said);
}

run_tests();

__DATA__

=== TEST 1: the rules are well-formed and pass their tests
--- config
location /memstat { memstat; }
--- perl
for my $command ('check rules alerts.yml', 'check config prometheus.yml', 'test rules alerts.test.yml') {
    my ($fine, $said) = said($command);
    ok $fine, "promtool $command" or diag $said;
}

=== TEST 2: every rule has a test in which it fires, and one in which it does not
--- config
location /memstat { memstat; }
--- perl
my @alerts = Test::Memstat::read_file(FOLDER . '/alerts.yml') =~ /^\s*- alert: (\w+)$/mg;
cmp_ok scalar @alerts, '>=', 6, 'rules';
my @tests = split /^\s*- eval_time: /m, Test::Memstat::read_file(FOLDER . '/alerts.test.yml');
for my $alert (@alerts) {
    my @of = grep { /^\s*alertname: $alert$/m } @tests;
    ok((grep { /^\s*exp_alerts:/m } @of), "$alert fires");
    ok((grep { !/^\s*exp_alerts:/m } @of), "$alert does not");
}

=== TEST 3: the metrics in the rules, the dashboard and the page exist
--- main_config
worker_processes 2;
--- http_config
lua_shared_dict dict 1m;
--- config
location /memstat { memstat; }
include $TEST_NGINX_TESTS/dict_by_lua.conf;
--- perl
# There is a metric of verdicts only if there is a verdict.
$t->get('/fill?key=k&length=4000&from=1&to=1000');
$t->get("/set?key=more$_&length=4000") for 1 .. 20;
# The snapshot that a worker takes at its start has no connection yet.
$t->wait_for('a connection in a snapshot', sub { grep { @{ $_->{pools}{oldest} } } process_with($t->fresh, kind => 'worker') });
my %there = map { /^(\w+)/ => 1 } keys %{ series($t->expire->get('/memstat?format=prometheus')->{body}) };
my $dashboard = JSON::PP->new->utf8->decode(Test::Memstat::read_file(FOLDER . '/dashboard.json'));
my @expressions = map { $_->{expr} } map { @{ $_->{targets} // [] } } @{ $dashboard->{panels} };
cmp_ok scalar @expressions, '>=', 20, 'expressions of the dashboard';
my %named;
for ([ dashboard => join ' ', @expressions ], [ alerts => Test::Memstat::read_file(FOLDER . '/alerts.yml') ],
    [ page => Test::Memstat::read_file(FOLDER . '/README.md') ],
    [ formats => Test::Memstat::read_file(FOLDER . '/../doc/formats.md') ]) {
    my ($where, $text) = @$_;
    $named{$_}{$where} = 1 for grep { !/_$/ } $text =~ /\b(nginx_memstat_\w+)/g;
}
# t/container.t has those of a container, which this server may not be in.
ok $there{$_}, "$_ (" . join(', ', sort keys %{ $named{$_} }) . ')' for grep { !/^nginx_memstat_container_/ } sort keys %named;
my @places = sort { $a->{y} <=> $b->{y} || $a->{x} <=> $b->{x} } map { $_->{gridPos} } @{ $dashboard->{panels} };
is scalar(grep { $_->{x} + $_->{w} > 24 } @places), 0, 'the panels fit';
my %ids = map { $_->{id} => 1 } @{ $dashboard->{panels} };
is scalar(keys %ids), scalar @{ $dashboard->{panels} }, 'each with an id of its own';
