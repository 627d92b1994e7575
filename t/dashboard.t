# The dashboard and the alerts: Grafana's own types accept the dashboard, and a real Prometheus, filled by
# the server, answers each query.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;
use Test::Memstat::Prometheus;

use JSON::PP;

use constant FOLDER => "$FindBin::Bin/../monitoring";

# The queries that have no series as long as nothing is wrong.
sub may_be_empty {
    my ($name) = @_;
    return 1 if $name eq 'Processes: Swap';    # only processes that are swapped out
    return 1 if $name =~ /^Container: /;       # only where the kernel counts memory and has a limit
    # In the test, one zone is full, and allocations fail in another. Nothing else is wrong.
    return $name =~ /^alert (?!NginxZoneNearlyFull$|NginxZoneFailures$)/;
}

# What Grafana puts in the place of its variables.
our %VARIABLES = (job => '.*', instance => '.*', __rate_interval => '4s');

sub dashboard { return JSON::PP->new->utf8->decode(read_file(FOLDER . '/dashboard.json')) }

# Returns the queries of the dashboard: pairs of a name, with the row of the panel, and an expression.
sub queries_of {
    my ($dashboard) = @_;
    my ($row, @queries) = ('Top');
    for my $panel (@{ $dashboard->{panels} }) {
        $row = $panel->{title} if $panel->{type} eq 'row';
        push @queries, map { [ "$row: $panel->{title}", $_->{expr} ] } @{ $panel->{targets} // [] };
    }
    push @queries, map { [ "annotation $_->{name}", $_->{expr} ] } grep { $_->{expr} } @{ $dashboard->{annotations}{list} };
    return @queries;
}

# Returns the alerts: pairs of a name and an expression.
sub alerts {
    my ($prometheus) = @_;
    return map { [ "alert $_->{name}", $_->{query} ] } map { @{ $_->{rules} } } @{ $prometheus->get('rules')->{groups} };
}

# Puts values in the place of Grafana's variables.
sub filled { return $_[0] =~ s/\$(\w+)/$VARIABLES{$1} \/\/ die "unknown variable $1 in $_[0]\n"/ger }

run_tests();

__DATA__

=== TEST 1: each query has an answer
--- main_config
worker_processes 2;
--- http_config
lua_shared_dict dict 1m;
init_worker_by_lua_block { collectgarbage("stop") }  # for a verdict
limit_req_zone $arg_key zone=victim:32k rate=1000r/s;
--- config
location /memstat { memstat; }
location /set { content_by_lua_block { for i = 1, 9000 do ngx.shared.dict:set("k" .. i, string.rep("x", 200)) end ngx.say("ok") } }
location /limited { limit_req zone=victim burst=100000 nodelay; empty_gif; }
--- perl
my $prometheus = Test::Memstat::Prometheus->new('127.0.0.1:' . $t->port, '/memstat', FOLDER . '/alerts.yml');
$t->wait_for('a scrape', sub { %{ $prometheus->query('nginx_memstat_build_info') } });
# An increase needs a figure from before.
$t->wait_for('the zone', sub { %{ $prometheus->query('nginx_memstat_zone_failures_total{zone="victim"} == 0') } });
is $t->get('/set')->{status}, 200, 'a zone gets full';
$t->get("/limited?key=$_" . 'x' x 100) for 1 .. 400;
my $dashboard = dashboard();
my @queries = queries_of($dashboard);
cmp_ok scalar @queries, '>=', 20, 'queries of the dashboard';
my @alerts = alerts($prometheus);
cmp_ok scalar @alerts, '>=', 7, 'alerts';
# The annotation compares the generations of every 15 seconds.
$t->wait_for('the generation', sub { %{ $prometheus->query('max_over_time(nginx_memstat_process_generation[1m:15s])') } });
$t->reload;
$t->old_gone;
for (@queries, @alerts) {
    my ($name, $expression) = @$_;
    $expression = filled($expression);
    my $series = eval { $prometheus->query($expression) };
    is $@, '', "$name: no error";
    next if $@;
    next if may_be_empty($name);
    # Rates need several scrapes.
    ok eval { $t->wait_for($name, sub { %{ $prometheus->query($expression) } }) }, "$name: series" or diag $expression;
}
# What an alert compares is there, so that it fires when it has to. A verdict is there only if something is
# wrong.
for (@alerts) {
    my ($name, $expression) = @$_;
    ok scalar %{ $prometheus->query($_) }, "$name: $_" for $expression =~ /\b(?!nginx_memstat_verdict)nginx_memstat_\w+(?:\{[^}]*\})?/g;
}
for my $variable (grep { $_->{type} eq 'query' } @{ $dashboard->{templating}{list} }) {
    my ($metric, $label) = $variable->{query}{query} =~ /^label_values\((.*), (\w+)\)$/ or die "not understood: $variable->{query}{query}\n";
    my $values = $prometheus->get("label/$label/values", 'match[]' => filled($metric));
    ok scalar @$values, "the variable $variable->{name} has values";
}
$prometheus->stop;

=== TEST 2: the dashboard is one of Grafana's
--- config
location /memstat { memstat; }
--- perl
my $top = "$FindBin::Bin/..";
my $installed = `'$top/t/grafana/install' '$top/build/grafana' 2>&1`;
is $? >> 8, 0, 'the types of Grafana are there' or diag $installed;
my $problems_of = sub {
    my ($file) = @_;
    my $said = `'$top/t/grafana/check' '$top/build/grafana' '$file' 2>&1`;
    return split /\n/, $said;
};
is join("\n", $problems_of->(FOLDER . '/dashboard.json')), '', 'they accept it';
# They refuse others.
my $changed = $t->root . '/dashboard.json';
for ([ '"lineWidth": 1' => '"lineWidth": "thick"' ], [ '"fillOpacity": 60' => '"fillOpacty": 60' ], [ '"bargauge"' => '"barometer"' ]) {
    my ($old, $new) = @$_;
    my $text = read_file(FOLDER . '/dashboard.json');
    $text =~ s/\Q$old\E/$new/ or die "no $old\n";
    open my $file, '>', $changed or die "$changed: $!\n";
    print $file $text;
    close $file;
    is scalar $problems_of->($changed), 1, "but not with $new";
}
